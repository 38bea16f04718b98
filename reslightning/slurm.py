"""Slurm: what a job was given, how its tasks are started, and how it starts again; without torch.

``python -m reslightning.slurm launch ARGUMENTS`` is what the job scripts run, and
``python -m reslightning.slurm ended STATUS`` what runs behind a job's tasks, and ``watch SHELL`` beside them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from reslightning.errors import SIGNALS, UserError

# Asks for a checkpoint and another start; a bare SIGTERM may be somebody's scancel, and only saves.
REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
STARTS_WITHOUT_PROGRESS = 3  # in a row, then Slurm's restarts end
# A file on the first node: empty until training begins, and younger than the silence while it lives.
ALIVE_VARIABLE = "RESLIGHTNING_ALIVE"
SILENCE = 120.0  # seconds without a sign of life after which the first task counts as lost
POLL, LOOKS = 10.0, 6  # it must be found silent so often: a suspended job wakes up with an old sign
WAIT_FOR_LEADER = 300  # seconds for W&B and the requeue behind the first task's end
# How Lightning tells an interactive shell, in which every task would train alone.
INTERACTIVE_NAMES = ("bash", "interactive")


def job_id() -> str | None:
    """Return the job that this process belongs to, as ARRAY_TASK in a job array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """Return how often Slurm has restarted this job."""
    return _number(os.environ.get("SLURM_RESTART_COUNT")) or 0


# -- what was allocated -------------------------------------------------------------------------


@dataclass(frozen=True)
class Allocation:
    """What Slurm gave a job.

    Attributes:
        name: the job's name.
        nodes: the number of nodes.
        tasks: tasks on each node, as asked for by the user or started by srun; empty if not asked for.
        cpus: CPUs on the node that has fewest.
        cpus_per_task: as asked for by the user.
        gpus: GPUs on this node.
        in_step: whether srun started this process.
        batch: whether it is a batch job.
    """

    name: str
    nodes: int
    tasks: tuple[int, ...]
    cpus: int
    cpus_per_task: int | None
    gpus: int
    in_step: bool
    batch: bool

    @classmethod
    def here(cls, environ: Mapping[str, str] = os.environ) -> Allocation | None:
        """Return the allocation that this process runs in; None outside of a job."""
        if not environ.get("SLURM_JOB_ID"):
            return None
        in_step = bool(environ.get("SLURM_STEP_ID")) and not _interactive_step(environ)
        per_node = environ.get("SLURM_STEP_TASKS_PER_NODE" if in_step else "SLURM_TASKS_PER_NODE", "")
        return cls(
            name=environ.get("SLURM_JOB_NAME", ""),
            nodes=_number(environ.get("SLURM_NNODES")) or 1,
            tasks=_counts(per_node) if environ.get("SLURM_NTASKS") else (),
            cpus=min(_counts(environ.get("SLURM_JOB_CPUS_PER_NODE", "")), default=1),
            cpus_per_task=_number(environ.get("SLURM_CPUS_PER_TASK")),
            gpus=_number(environ.get("SLURM_GPUS_ON_NODE")) or 0,
            in_step=in_step,
            batch=environ.get("ENVIRONMENT") == "BATCH",
        )

    def check_name(self) -> None:
        """Refuse a name by which Lightning would take every task for a training of its own."""
        if self.name in INTERACTIVE_NAMES and (self.batch or sum(self.tasks) > 1):
            raise UserError(
                f"the job is named {self.name!r}, and Lightning takes such a job for an interactive shell: each task "
                "would train alone\nGive it another name: --job-name=resnet"
            )


def _interactive_step(environ: Mapping[str, str]) -> bool:
    # salloc's own shell, or a task with a terminal, is a place to type commands in.
    return (_number(environ.get("SLURM_STEP_ID")) or 0) >= 2**32 - 16


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _counts(text: str) -> tuple[int, ...]:
    """Return Slurm's counts per node, "2(x2),1", as (2, 2, 1)."""
    found: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        found += [int(count)] * int(times or 1)
    return tuple(found)


# -- how tasks are started ----------------------------------------------------------------------


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


def check(devices: int, nodes: int) -> None:
    """Refuse an allocation in which the processes would not add up to one training.

    Args:
        devices: the Trainer's devices on each node.
        nodes: the Trainer's nodes.

    Raises:
        UserError: a task too many or too few; each process would train on its own part, or wait for ever.
    """
    given = Allocation.here()
    if given is None:
        return
    given.check_name()
    if given.name in INTERACTIVE_NAMES and nodes == 1:
        return  # a shell, in which Lightning starts the processes itself
    tasks, wanted = sum(given.tasks), devices * nodes
    use = f"--nodes={nodes} --ntasks-per-node={devices}"
    if not given.in_step:
        if tasks > 1 or nodes > 1:
            raise UserError(
                f"the job has {max(tasks, nodes)} tasks, but this is one process that srun did not start: it would "
                "wait for the others\nStart it with srun, use slurm/train.sh, or ask for one task: --nodes=1 --ntasks=1"
            )
        if tasks == 1 and devices > 1:
            raise UserError(
                f"the job has 1 task for {devices} devices: it would train on 1/{devices} of the data\n"
                f"Use {use} and srun (slurm/train.sh does both), or --trainer.devices 1."
            )
        return
    if tasks != wanted or given.tasks != (devices,) * nodes:
        found = max(given.tasks)
        even = given.tasks == (found,) * len(given.tasks)
        instead = f", or --trainer.num_nodes {len(given.tasks)} --trainer.devices {found}" if even else ""
        raise UserError(
            f"{tasks} tasks ({', '.join(map(str, given.tasks))} on the nodes) do not match trainer.num_nodes={nodes} x "
            f"trainer.devices={devices}\nUse {use}{instead}; slurm/train.sh derives them from the allocation."
        )


# -- how a job starts again ---------------------------------------------------------------------


def _alive() -> Path | None:
    path = Path(os.environ.get(ALIVE_VARIABLE) or "/nonexistent")
    return path if path.is_file() else None


def begun() -> None:
    """Say that training has begun, so that what ends it from now on counts against its progress."""
    if path := _alive():
        path.write_text("begun\n")


def beat() -> None:
    """Give a sign of life to whoever waits for the tasks."""
    with contextlib.suppress(OSError):
        if path := _alive():
            os.utime(path)


def _silent() -> bool:
    path = _alive()
    return path is not None and path.stat().st_size > 0 and time.time() - path.stat().st_mtime > SILENCE


def watch(shell: int) -> int:
    """Kill a shell's srun when the first task is lost: srun itself waits for ever for a step whose daemon died."""
    looks = 0
    while _alive():
        looks = looks + 1 if _silent() else 0
        if looks >= LOOKS:
            subprocess.run(["pkill", "-KILL", "-P", str(shell), "srun"])
            return 0
        time.sleep(POLL)
    return 0


def requeue() -> str:
    """Ask Slurm to start this job again, once it has ended, and return what came of it."""
    job = job_id()
    behind = f"sbatch --dependency=afterany:{os.environ.get('SLURM_JOB_ID')} ..."
    again = f"its next segment goes on; if it has none, submit the same command again, or {behind}"
    try:
        done = subprocess.run(["scontrol", "requeue", str(job)], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return f"scontrol is not installed here, so Slurm job {job} is not requeued: {again}"
    except subprocess.TimeoutExpired:
        return f"scontrol did not answer for 60 s, so Slurm job {job} may not be requeued: see squeue, else {again}"
    if done.returncode:
        return f"Slurm job {job} is not requeued ({(done.stderr or done.stdout).strip()}): {again}"
    return f"Slurm job {job} is requeued"


def ended(status: int) -> int:
    """Requeue a job whose tasks were killed, and return the batch script's exit status.

    Tasks that were asked to stop have requeued the job themselves; a failed training, status 1 or
    2, would fail again. What was killed, by the kernel for its memory or by its node's trouble,
    goes on from its checkpoint.
    """
    path = _alive()
    never_began = path is not None and path.stat().st_size == 0
    if path:
        path.unlink()
    if status <= 128 or status - 128 in (signal.SIGTERM, signal.SIGINT) or not running():
        return status
    killed = f"a task was killed by signal {status - 128}"
    if never_began and restarts() >= STARTS_WITHOUT_PROGRESS:
        print(f"reslightning: {killed} before training began, at restart {restarts()}: not requeued", file=sys.stderr)
        return status
    print(f"reslightning: {killed}: {requeue()}", file=sys.stderr, flush=True)
    return status


def running() -> bool:
    """Whether this job runs; one that was cancelled or is out of time does not any more."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["scontrol", "show", "job", str(job_id())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        state = re.search(r"JobState=(\w+)", done.stdout)
        return state is None or state[1] == "RUNNING"
    return True


def launch(argv: list[str]) -> int:
    """Run ``fit ARGV`` as the allocation's tasks, pass on signals, and return the exit status."""
    given = Allocation.here()
    if given is None:
        raise UserError("not inside a Slurm job: submit slurm/train.sh with sbatch, or use `reslightning fit` here")
    if shutil.which("srun") is None:
        raise UserError("srun is not on the PATH of this node; load Slurm's module, or ask the cluster's staff")
    plan = Plan.of(given)
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
        looks = looks + 1 if _silent() else 0
        if looks >= LOOKS:
            print(f"reslightning: the first task gave no sign of life for {SILENCE:.0f} s", file=sys.stderr)
            tasks.kill()
    return ended(status if status >= 0 else 128 - status)


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Signal the tasks; srun itself would kill them for a SIGTERM."""
    subprocess.run(["scancel", f"--signal={signal.Signals(number).name[3:]}", os.environ["SLURM_JOB_ID"]])


def _wait(tasks: subprocess.Popen[bytes]) -> int | None:
    try:
        return tasks.wait(timeout=POLL)
    except subprocess.TimeoutExpired:
        return None


def main(argv: list[str]) -> int:
    """Run ``launch ARGUMENTS``, ``ended STATUS`` or ``watch SHELL``."""
    try:
        if argv[:1] == ["launch"]:
            return launch(argv[1:])
        if argv[:1] == ["ended"] and len(argv) == 2:
            return ended(int(argv[1]))
        if argv[:1] == ["watch"] and len(argv) == 2:
            return watch(int(argv[1]))
        raise UserError("usage: python -m reslightning.slurm launch FIT-ARGUMENTS | ended STATUS | watch SHELL")
    except UserError as error:
        print(f"reslightning: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
