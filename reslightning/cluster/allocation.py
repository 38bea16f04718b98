"""What Slurm gave a job, and whether a training fits it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from reslightning.errors import UserError

# What tells a process its place among others, and Lightning believes.
PLACES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")
# How Lightning tells an interactive shell, in which every task would train alone.
INTERACTIVE_NAMES = ("bash", "interactive")
_COUNT = (r"0*[1-9]\d{0,8}", "a whole number, 1 or more")
_MEMORY = (r"\d+([KMGT]B?)?", "megabytes, or a number with K, M, G or T: 120G")
# What sbatch's options may look like.
FORMS = {
    "time": (
        r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|UNLIMITED|INFINITE",
        "minutes, HH:MM:SS, D-HH or D-HH:MM:SS",
    ),
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu"), _MEMORY),
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu", "ntasks-per-node"), _COUNT),
}
# What says sbatch's options that a training's job must agree with.
SAID = {
    "nodes": "--nodes",
    **dict.fromkeys(("ntasks", "ntasks-per-gpu"), "--nodes and --gpus, or ntasks-per-node"),
    **dict.fromkeys(("gpus", "gres", "gpus-per-node", "gpus-per-task", "gpus-per-socket"), "--gpus"),
    "array": "--grid",
    "job-name": "--name",
    **dict.fromkeys(("output", "error"), "--logs"),
    "no-requeue": "--segments",
}
SIGNAL_SECONDS = 120  # before its time limit a job is signalled, to save and to be requeued


def job_id() -> str | None:
    """Return the job that this process belongs to, as ARRAY_TASK in a job array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def first_task() -> bool:
    """Whether this process is the first of a job's tasks, or none of a job's."""
    return not job_id() or os.environ.get("SLURM_PROCID", "0") == "0"


def job_record() -> str:
    """Return what Slurm says of this job, and of no other task of its array; nothing where it does not answer."""
    try:
        command = ["scontrol", "show", "job", str(job_id())]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def time_limit(record: str) -> str | None:
    """Return the time limit in a job's record, in Slurm's words."""
    found = re.search(r"\bTimeLimit=(\S+)", record)
    return found[1] if found else None


def check_forms(options: Mapping[str, str]) -> None:
    """Raise UserError for options that sbatch cannot have, or has from elsewhere: names without dashes in front."""
    for name, value in options.items():
        given = f"{name}={value}"
        if not re.fullmatch(r"[a-z][a-z0-9-]+", name) or not given.isprintable():
            raise UserError(f"{given!r} is no line of a job script; allowed: sbatch's long options, constraint=a100_80")
        if name in SAID:
            raise UserError(f"{given} comes from --sbatch or SBATCH_*; use {SAID[name]} instead")
        form, allowed = FORMS.get(name, (".*", ""))
        if not re.fullmatch(form, value, re.IGNORECASE | re.ASCII):
            raise UserError(f"{given} is not allowed; allowed: {allowed}")


def too_short(limit: str | None) -> str | None:
    """Return what is wrong with a time limit, D-HH:MM:SS or minutes as sbatch takes it, in which nothing is trained."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit or "")
    if not found:
        return None
    units = (3600, 60, 1) if found[1] or found[4] else (60, 1, 0)
    seconds = sum(int(part or 0) * unit for part, unit in zip(found.groups(), (86400, *units), strict=True))
    if not 0 < seconds <= SIGNAL_SECONDS:  # none at all is 0
        return None
    return (
        f"a time limit of {limit} is not above the {SIGNAL_SECONDS} s before its end at which a job is told to stop: "
        "each start would be stopped at once, with a step or none; give --time ten minutes or more"
    )


def warn_of_limit() -> None:
    """Say where this job's time limit lets it train nothing."""
    if warning := too_short(time_limit(job_record())):
        print(f"reslightning: warning: {warning}", file=sys.stderr, flush=True)


def restarts() -> int:
    """Return how often Slurm has restarted this job."""
    return _number(os.environ.get("SLURM_RESTART_COUNT")) or 0


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
        if nodes > 1 and not {"TORCHELASTIC_RUN_ID", "MASTER_ADDR"} & os.environ.keys():
            raise UserError(
                f"trainer.num_nodes={nodes}, but this is no Slurm job and nothing says where the others are: it would "
                "wait for them for ever\nUse reslightning submit --nodes, srun in a job, or torchrun; or leave it out."
            )
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


def check_numbers(environ: Mapping[str, str] = os.environ) -> None:
    """Raise UserError for a place among other processes that is no number, which Lightning cannot even read."""
    for name in PLACES:
        if not environ.get(name, "0").isdigit():
            raise UserError(f"{name}={environ[name]} is no process's number; unset it: unset {name}")


def check_places(processes: int, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a place among other processes that no launcher gave: a process that is not the first writes nothing.

    Args:
        processes: the Trainer's devices times its nodes.
        environ: the process's environment.

    Raises:
        UserError: a variable lies about that nothing which starts processes has set.
    """
    if "TORCHELASTIC_RUN_ID" in environ:
        return
    for name in PLACES:
        if name in environ and environ[name] not in _true_places(name, processes, environ):
            raise UserError(
                f"{name}={environ[name]} lies about, but nothing started this process as one of several: it would wait "
                f"for the others, or train and write nothing\nUnset it (unset {name}), or start the processes with "
                "srun or torchrun."
            )


def _true_places(name: str, processes: int, environ: Mapping[str, str]) -> Collection[str]:
    """Return the values of a variable that what started this process explains."""
    job = Allocation.here(environ)
    if name.startswith("SLURM_"):
        anything = [environ[name]]
        return anything if job and (job.in_step or name == "SLURM_NTASKS") else ["0"] if job else []
    if job and job.in_step:
        slurms = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}
        return [environ.get(slurms.get(name, "SLURM_NODEID"), "")]
    if processes == 1:
        return ["1"] if name == "WORLD_SIZE" else ["0"]
    # Lightning's launcher, or whoever says by hand where the first process is; neither of them sets RANK.
    if {"MASTER_ADDR", "MASTER_PORT"} <= environ.keys() and name != "RANK":
        return [environ[name]]
    return [str(processes)] if name == "WORLD_SIZE" else []
