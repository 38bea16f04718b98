"""How a job's tasks are started: one for each GPU, or as many as were asked for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from types import FrameType

from reslightning.cluster.allocation import Allocation, job_id, warn_of_limit
from reslightning.cluster.requeue import ALIVE_VARIABLE, LOOKS, POLL, SILENCE, silent
from reslightning.errors import SIGNALS, UserError

WAIT_FOR_LEADER = 300  # seconds for W&B and the requeue behind the first task's end


@dataclass(frozen=True)
class Plan:
    """One task for each GPU, or as many as were asked for, the same on every node."""

    nodes: int
    tasks_per_node: int
    cpus_per_task: int
    overcommit: bool
    gpus: bool = False

    @classmethod
    def of(cls, given: Allocation) -> Plan:
        """Derive the tasks of a training from an allocation.

        Raises:
            UserError: the tasks do not match the nodes or the GPUs.
        """
        given.check_name()
        per_node = given.gpus or max(given.tasks, default=1)
        if given.tasks and given.tasks != (per_node,) * given.nodes:
            tasks = ", ".join(map(str, given.tasks))
            have = f"{given.gpus} GPUs a node" if given.gpus else f"{given.nodes} nodes"
            fewer = f", or --gpus-per-node={max(given.tasks)} to use fewer" if given.gpus else ""
            raise UserError(
                f"{sum(given.tasks)} tasks ({tasks} on the nodes) do not match {have}: every device needs one task, "
                f"and every node the same number\nUse --nodes={given.nodes} --ntasks-per-node={per_node} in place of "
                f"--ntasks{fewer}."
            )
        share = max(given.cpus // per_node, 1)
        cpus = min(given.cpus_per_task, share) if given.tasks and given.cpus_per_task else share
        return cls(given.nodes, per_node, cpus, given.cpus < per_node, given.gpus > 0)

    def srun(self) -> list[str]:
        """Return the srun command that starts the tasks, without what they run."""
        return [
            "srun",
            f"--nodes={self.nodes}",
            f"--ntasks={self.nodes * self.tasks_per_node}",
            f"--ntasks-per-node={self.tasks_per_node}",
            # Not inherited from sbatch by every version of Slurm.
            *(["--overcommit"] if self.overcommit else [f"--cpus-per-task={self.cpus_per_task}"]),
            *srun_options(self.gpus),
        ]

    def trainer(self) -> list[str]:
        """Return the options by which the Trainer starts nothing of its own."""
        return [f"--trainer.num_nodes={self.nodes}", f"--trainer.devices={self.tasks_per_node}"]


def srun_options(gpus: bool) -> list[str]:
    """Return the options every training is started with, whoever writes the srun command."""
    # A script that was submitted with --export=NONE would hand srun an empty environment.
    # Every task must see all of its node's GPUs: Lightning chooses by the local rank.
    bind = ["--gpu-bind=none"] if gpus else []
    return ["--export=ALL", "--kill-on-bad-exit=1", f"--wait={WAIT_FOR_LEADER}", "--unbuffered", *bind]


def launch(argv: list[str]) -> int:
    """Run ``fit ARGV`` as the allocation's tasks, pass on signals, and return the exit status."""
    given = Allocation.here()
    if given is None:
        raise UserError("not inside a Slurm job: submit slurm/train.sh with sbatch, or use `reslightning fit` here")
    if shutil.which("srun") is None:
        raise UserError("srun is not on the PATH of this node; load Slurm's module, or ask the cluster's staff")
    plan = Plan.of(given)
    warn_of_limit()
    if plan.overcommit:
        advice = "--cpus-per-gpu=8" if given.gpus else "--cpus-per-task"
        print(f"reslightning: {plan.tasks_per_node} tasks share {given.cpus} CPUs on a node; consider {advice}")
    command = [*plan.srun(), sys.executable, "-u", "-m", "reslightning", "fit", *plan.trainer(), *argv]
    # Left alone, every task would start a thread for each CPU of its node.
    environ = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(plan.cpus_per_task))}
    handle, marker = tempfile.mkstemp(prefix="reslightning-")
    os.close(handle)
    os.environ[ALIVE_VARIABLE] = environ[ALIVE_VARIABLE] = marker
    tasks = subprocess.Popen(command, env=environ)
    for number in SIGNALS:
        signal.signal(number, _pass_on)
    looks = 0
    while (status := _wait(tasks)) is None:
        looks = looks + 1 if silent() else 0
        if looks >= LOOKS:
            print(f"reslightning: the first task gave no sign of life for {SILENCE:.0f} s", file=sys.stderr)
            tasks.kill()
    return status if status >= 0 else 128 - status


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Signal the tasks; srun itself would kill them for a SIGTERM."""
    subprocess.run(["scancel", f"--signal={signal.Signals(number).name[3:]}", str(job_id())])


def _wait(tasks: subprocess.Popen[bytes]) -> int | None:
    try:
        return tasks.wait(timeout=POLL)
    except subprocess.TimeoutExpired:
        return None
