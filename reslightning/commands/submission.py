"""Trainings as Slurm jobs through submitit: one run, a chain of segments, or a grid of runs.

The job scripts are submitit's, and so is what carries the command line to the tasks; what happens
on a signal or a kill is as under slurm/train.sh.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm import slurm as submitit_slurm

from reslightning.cluster.allocation import SIGNAL_SECONDS, check_forms, too_short
from reslightning.cluster.launch import srun_options
from reslightning.cluster.requeue import ALIVE_VARIABLE
from reslightning.errors import UserError
from reslightning.files import write_atomically
from reslightning.ranges import Range
from reslightning.run.provenance import code_hash, snapshot

SEGMENTS = Range("a whole number in [1, 1000]")
# sbatch's variables whose names differ from their options'.
_VARIABLES = {"TIMELIMIT": "time", "MEM_PER_NODE": "mem", "REQ_SWITCH": "switches", "ARRAY_INX": "array"}


class Fit:
    """What a task of a job runs: ``fit`` with these arguments, from wherever its run stands."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = list(argv)

    def __call__(self) -> None:
        """Train; a status other than 0 is the task's."""
        # A task starts at the top, as `python -m reslightning` does.
        main = importlib.import_module("reslightning.__main__").main
        sys.argv = ["reslightning", "fit", *self.argv]
        if status := main(sys.argv[1:]):
            raise SystemExit(status)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what runs after a signal that came before Python was ready for it."""
        return submitit.helpers.DelayedSubmission(self)


@dataclass
class Request:
    """What is asked of Slurm.

    Attributes:
        options: sbatch's options without dashes in front: {"partition": "htc", "time": "0-4"}.
        nodes: the number of nodes.
        gpus: GPUs on each node, "4" or "a100:4"; none given means nodes without GPUs.
        segments: jobs of the same run, one behind the other.
        array_parallelism: runs of a grid at a time.
        snapshot: run a copy of the code as it is now.
        logs: the folder for scripts and output.
    """

    options: dict[str, str] = field(default_factory=dict)
    nodes: int = 1
    gpus: str | None = None
    segments: int = 1
    array_parallelism: int | None = None
    snapshot: bool = False
    logs: Path = Path("submitted")

    def __post_init__(self) -> None:
        self.options = {key.replace("_", "-"): value for key, value in self.options.items()}
        check_forms(self.options)
        if self.segments not in SEGMENTS:
            raise UserError(f"segments={self.segments} is out of range; allowed: {SEGMENTS.words}")
        if "signal" not in self.options and (short := too_short(self.options.get("time"))):
            raise UserError(short)

    @property
    def tasks_per_node(self) -> int:
        """One for each GPU, else as many as sbatch's ntasks-per-node says."""
        if self.gpus is None:
            return int(self.options.get("ntasks-per-node", "1"))
        found = re.fullmatch(r"(?:[\w.-]+:)?0*([1-9]\d*)", self.gpus, re.ASCII)
        if not found:
            raise UserError(
                f"--gpus={self.gpus} is no number of devices on a node; allowed: 4, or a100:4; leave it out to use CPUs"
            )
        return int(found[1])

    @property
    def trainer(self) -> list[str]:
        """The options by which the Trainer fits the job."""
        return [f"--trainer.num_nodes={self.nodes}", f"--trainer.devices={self.tasks_per_node}"]


def grid_cells(grid: Sequence[str]) -> list[list[str]]:
    """Return the options of every cell of a grid like ``["model.arch=resnet20,plain20", "seed_everything=0,1"]``.

    Raises:
        UserError: a part is not KEY=VALUE,VALUE, or names a key twice.
    """
    axes: dict[str, list[str]] = {}
    for part in grid:
        key, _, values = part.partition("=")
        key = key.removeprefix("--").replace("-", "_")
        # A comma inside brackets belongs to a value.
        split = re.split(r",(?![^\[{]*[\]}])", values)
        if not key or not any(split):
            raise UserError(f"--grid {part!r} names no values; expected KEY=A,B like model.arch=resnet20,plain20")
        if "" in split:
            raise UserError(f"--grid {part!r} has an empty value, a comma too many perhaps\nGive it, or leave it out.")
        if key in axes or len(split) != len(set(split)):
            raise UserError(f"--grid {part!r} repeats a key or a value; give every cell once")
        axes[key] = split
    cells = itertools.product(*([f"--{key}={value}" for value in values] for key, values in axes.items()))
    return [list(cell) for cell in cells]


def job_name(argv: Sequence[str], grid: Sequence[str]) -> str:
    """Return a name that the same command in the same folder always gets, so that its jobs follow each other."""
    text = shlex.join([str(Path.cwd()), *argv, "--grid", *grid])
    return f"reslightning-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def site_variables(path: Path) -> dict[str, str]:
    """Return the variables that a site's file sets.

    Raises:
        UserError: the file cannot be read by bash.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"cannot use the site's file {path}: it is a folder, a device or a pipe")
    script = 'set -ae; source "$1" >&2; env -0'
    done = subprocess.run(["bash", "-c", script, "site", str(path.resolve())], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"cannot use the site's file {path}: {done.stderr.strip().splitlines()[-1]}")
    found = dict(line.partition("=")[::2] for line in done.stdout.split("\0") if line)
    same = {"_", "SHLVL"} | {name for name, value in found.items() if os.environ.get(name) == value}
    return {name: value for name, value in found.items() if name not in same}


def environment_options() -> dict[str, str]:
    """Return sbatch's options that SBATCH_* variables give; in a script's place they would override it."""
    names = {name: name.removeprefix("SBATCH_") for name in os.environ if name.startswith("SBATCH_")}
    return {_VARIABLES.get(rest, rest.lower().replace("_", "-")): os.environ[name] for name, rest in names.items()}


# -- the script -----------------------------------------------------------------------------------


def parameters(request: Request, name: str) -> dict[str, Any]:
    """Return submitit's parameters for a request."""
    # What is given no value is a flag of sbatch's, exclusive say.
    options: dict[str, Any] = {key: value or True for key, value in request.options.items()}
    for own in ("ntasks-per-node", "requeue"):
        options.pop(own, None)
    if request.gpus is None:
        for key in [key for key in options if key.endswith("-per-gpu")]:
            options.pop(key)
    if "cpus-per-task" in options:
        options.pop("cpus-per-gpu", None)
    cpus = options.get("cpus-per-task") or options.get("cpus-per-gpu")
    if request.gpus is not None:
        options["gpus-per-node"] = request.gpus
    options["requeue" if request.segments == 1 else "no-requeue"] = True
    setup = [
        f"export {ALIVE_VARIABLE}=$(mktemp)",
        f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cpus or 1}}}",
    ]
    if request.snapshot:
        setup.append("# the code as it was at submission; the working folder comes behind it")
        code = shlex.quote(str(_code(request, name)))
        setup.append(f"export PYTHONSAFEPATH=1 PYTHONPATH={code}:$PWD${{PYTHONPATH:+:$PYTHONPATH}}")
    setup.append(f"{shlex.quote(sys.executable)} -m reslightning.slurm watch $$ &")
    return {
        "job_name": name,
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks_per_node,
        "time": None,  # else submitit's five minutes
        "wckey": None,
        # Jobs of one name run one behind the other; an array's own tasks do not wait for each other.
        "dependency": options.pop("dependency", "singleton"),
        "signal_delay_s": SIGNAL_SECONDS,
        "stderr_to_stdout": True,
        "setup": setup,
        "teardown": [f"exec {shlex.quote(sys.executable)} -m reslightning.slurm ended $?"],
        "srun_args": [*srun_options(request.gpus is not None), *([f"--cpus-per-task={cpus}"] if cpus else [])],
        "array_parallelism": request.array_parallelism or 256,
        "additional_parameters": options,
    }


def script(request: Request, name: str, cells: int) -> str:
    """Return the sbatch script that ``submit`` would hand in for so many unfinished runs."""
    folder = _folder(request, name)
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    array = cells if cells > 1 else None
    return submitit_slurm._make_sbatch_string(command, folder, map_count=array, **parameters(request, name))


def _folder(request: Request, name: str) -> Path:
    return (request.logs / name).expanduser().absolute()


def _code(request: Request, name: str) -> Path:
    return _folder(request, name) / f"code-{code_hash()}"


# -- submitting -----------------------------------------------------------------------------------


def submit(request: Request, name: str, runs: Sequence[tuple[Path, str]]) -> list[list[tuple[str, Path]]]:
    """Queue runs and return for each of them its jobs: number and the first task's log.

    Args:
        request: what each job is given.
        name: the jobs' name.
        runs: each run's directory and complete configuration, which later edits of configs do not reach.

    Raises:
        UserError: Slurm is missing or refuses; the message begins with sbatch's own words.
    """
    folder = _folder(request, name)
    with _undone(folder):
        return _queue(request, name, folder, runs)


@contextlib.contextmanager
def _undone(folder: Path) -> Iterator[None]:
    """Take away what the block has put into a folder, where it queued nothing."""
    above = [place for place in (folder, *folder.parents) if not place.exists()]
    there = set(folder.glob("**/*"))
    try:
        yield
    except NothingQueuedError:
        for new in sorted({*folder.glob("**/*")} - there, reverse=True):  # what lies in a folder before the folder
            new.rmdir() if new.is_dir() and not new.is_symlink() else new.unlink()
        for place in above:
            place.rmdir()
        raise


class NothingQueuedError(UserError):
    """Slurm is missing or refuses the first of a command's jobs."""


def _queue(request: Request, name: str, folder: Path, runs: Sequence[tuple[Path, str]]) -> list[list[tuple[str, Path]]]:
    try:
        executor = submitit.SlurmExecutor(folder=folder, python=shlex.quote(sys.executable))
    except RuntimeError as error:
        raise UserError("srun is not on the PATH, so this is no place to submit from; --local trains here") from error
    executor.update_parameters(**parameters(request, name))
    if request.snapshot and not _code(request, name).exists():
        snapshot(_code(request, name))
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for directory, text in runs:
        config = folder / f"{directory.name}.yaml"
        write_atomically(config, text)
        tasks.append(Fit(["-c", str(config), f"--run_dir={directory}"]))
    found: list[list[tuple[str, Path]]] = [[] for _ in tasks]
    for segment in range(request.segments):
        try:
            with _plain_environment():
                jobs = executor.submit_array(tasks) if len(tasks) > 1 else [executor.submit(tasks[0])]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            words = [line for line in str(error).splitlines() if line.startswith("sbatch:")]
            said = f"{chr(10).join(words) or error}\nNothing else was queued."
            if not segment:
                raise NothingQueuedError(said) from error
            raise UserError(f"{said}\n{segment} of {request.segments} segments are queued already") from error
        for run, job in zip(found, jobs, strict=True):
            run.append((job.job_id, job.paths.stdout))
    return found


@contextlib.contextmanager
def _plain_environment() -> Iterator[None]:
    """Hide what sbatch would read from the environment: the script says everything."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SBATCH_", "SLURM_", "SUBMITIT_")) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
