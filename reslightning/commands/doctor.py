"""doctor: what would go wrong, or waste what was allocated, said in seconds and before training."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Generator, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from reslightning.cli.parser import CommandParser
from reslightning.cluster.allocation import (
    INTERACTIVE_NAMES,
    SIGNAL_SECONDS,
    Allocation,
    job_record,
    time_limit,
    too_short,
)
from reslightning.cluster.launch import Plan
from reslightning.commands.sync import wandb_server
from reslightning.errors import UserError
from reslightning.files import check_folder
from reslightning.track.wandb_settings import Wandb, refused
from reslightning.train.hardware import emulated, missing_compiler

OK, WARN, BAD = "ok", "warn", "BAD"
CHECKPOINT = 200  # MB, a ResNet-50's with its optimizer
ROOM = 3  # checkpoints at a time: last, best and the next one
PROBE = 64  # MB written to measure a folder's speed
READ = 128 * 1024  # bytes, an ImageNet photograph
KNOWN_PROBLEMS = (
    ("wandb", (0, 31), "older ones overwrite the offline parts of a requeued run"),
    ("submitit", (1, 5, 4), "older ones do not run a line behind the tasks, so killed jobs are not requeued"),
    ("lightning", (2, 6, 6), "older ones were never tried with this package"),
    ("torch", (2, 10), "older ones were never tried with this package"),
)
Line = tuple[str, str, str]  # verdict, what was looked at, what was found


def main(argv: list[str]) -> int:
    """Print a line for each check; exit status 1 if training would fail or use less than is there."""
    parser = CommandParser(
        prog="reslightning doctor",
        description="Check this machine, or the Slurm job it runs in, before time is spent on training.",
    )
    parser.add_argument(
        "--run_dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs go (default: runs)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("RESLIGHTNING_DATA") or None,
        metavar="DIR",
        help="the data's folder or file",
    )
    parser.add_argument("--stage_to", type=Path, metavar="DIR", help="the node's own storage, as data.stage_to")
    parser.add_argument("--devices", type=PositiveInt, metavar="N", help="trainer.devices, if not the allocation's")
    parser.add_argument("--num_nodes", type=PositiveInt, metavar="N", help="trainer.num_nodes, if not the allocation's")
    parser.add_argument("--full", action="store_true", help="import torch, and let it say which devices it sees")
    args = parser.parse_args(argv[1:])
    worst = OK
    for verdict, what, found in _checks(args):
        print(f"{verdict:5} {what:22} {found}", flush=True)
        worst = BAD if BAD in (worst, verdict) else worst
    return int(worst == BAD)


def _checks(args: Namespace) -> Iterator[Line]:
    given = Allocation.here()
    yield from _tasks(given, args)
    yield from _gpus(given, args.full)
    yield from _arithmetic(args.full)
    speed = yield from _folder("run directory", args.run_dir, CHECKPOINT * ROOM)
    yield from _limits(given, speed)
    if args.stage_to:
        yield from _folder("staging directory", Path(os.path.expandvars(args.stage_to)), 0)
    yield from _data(Path(args.data).expanduser() if args.data else None)
    yield from _wandb()
    yield from _versions()


# -- the allocation -----------------------------------------------------------------------------


def _tasks(given: Allocation | None, args: Namespace) -> Iterator[Line]:
    if given is None:
        yield OK, "Slurm", "not inside a job" + ("" if shutil.which("sbatch") else ", and no sbatch on the PATH")
        if args.devices or args.num_nodes:
            yield WARN, "tasks", "--devices and --num_nodes are compared with a job's, and this is none"
        return
    try:
        plan = Plan.of(given)
    except UserError as error:
        yield BAD, "tasks", str(error).replace("\n", "; ")
        return
    nodes, devices = args.num_nodes or plan.nodes, args.devices or plan.tasks_per_node
    found = f"{plan.nodes} nodes x {plan.tasks_per_node} tasks, one for each device"
    if (nodes, devices) != (plan.nodes, plan.tasks_per_node):
        wanted = f"trainer.num_nodes={nodes} x trainer.devices={devices}"
        yield BAD, "tasks", f"{found}, but {wanted}: use --nodes={nodes} --ntasks-per-node={devices}"
    elif given.name in INTERACTIVE_NAMES and not given.in_step:
        yield OK, "tasks", f"an interactive shell with {plan.tasks_per_node} devices on {plan.nodes} nodes"
    else:
        yield OK, "tasks", found
    yield from _cpus(given, plan)


def _cpus(given: Allocation, plan: Plan) -> Iterator[Line]:
    inherited = os.environ.get("SRUN_CPUS_PER_TASK")
    found = f"{plan.cpus_per_task} a task of {given.cpus} on a node"
    used = plan.tasks_per_node * plan.cpus_per_task
    if plan.overcommit:
        yield (
            BAD,
            "CPUs",
            f"{given.cpus} for {plan.tasks_per_node} tasks on a node: add --cpus-per-gpu or --cpus-per-task",
        )
    elif inherited and inherited != str(plan.cpus_per_task):
        yield WARN, "CPUs", f"{found}, but SRUN_CPUS_PER_TASK={inherited} is what a plain srun takes: unset it"
    elif used < given.cpus - plan.tasks_per_node:
        yield WARN, "CPUs", f"{found}: {given.cpus - used} are not used"
    else:
        yield OK, "CPUs", f"{found}; slurm/train.sh hands them to srun"


def _gpus(given: Allocation | None, full: bool) -> Iterator[Line]:
    listed = _output("nvidia-smi", "-L").splitlines()
    seen = len([line for line in listed if line.startswith("GPU")])
    text = f"{seen} visible" if listed else "no nvidia-smi here"
    if full:
        import torch

        seen = torch.cuda.device_count()
        text = f"torch {torch.__version__} sees {seen}"
    allocated = given.gpus if given else 0
    if seen < allocated:
        yield BAD, "GPUs", f"{text}, but {allocated} are allocated on this node: training would run on CPUs"
    elif given and seen > allocated:
        yield WARN, "GPUs", f"{text}, but {allocated} are allocated: ask for them with --gpus-per-node"
    else:
        yield OK, "GPUs", text


def _arithmetic(full: bool) -> Iterator[Line]:
    """Yield what model.compile and trainer.precision find here."""
    device = "cuda" if "GPU" in _output("nvidia-smi", "-L") else "cpu"
    missing = missing_compiler(device)
    yield (
        (WARN, "compiler", f"model.compile needs {missing}") if missing else (OK, "compiler", "there for model.compile")
    )
    if device == "cpu" or full:
        cost = emulated("bf16-mixed", device)
        yield (WARN, "bfloat16", cost) if cost else (OK, "bfloat16", "trainer.precision bf16-mixed is not emulated")


def _limits(given: Allocation | None, speed: float | None) -> Iterator[Line]:
    if given is None:
        return
    job = job_record()
    if short := too_short(time_limit(job)):
        yield BAD, "time limit", short
    if speed is not None:
        needed = CHECKPOINT / speed
        text = f"a checkpoint of {CHECKPOINT} MB takes {needed:.1f} s; the time limit is {time_limit(job) or 'unknown'}"
        # Of the time between signal and end, W&B may take 30 seconds.
        verdict = OK if needed < SIGNAL_SECONDS / 4 else BAD if needed > SIGNAL_SECONDS - 30 else WARN
        advice = "" if verdict == OK else ": give sbatch a longer --signal=USR2@SECONDS"
        yield verdict, "signal margin", text + advice
    if requeue := re.search(r"\bRequeue=(\d)", job):
        refused = "this job may not be requeued: use reslightning submit --segments"
        yield (OK, "requeue", "allowed") if requeue[1] == "1" else (WARN, "requeue", refused)
    elif not job:
        yield WARN, "requeue", "scontrol does not answer here: use reslightning submit --segments"


# -- storage ------------------------------------------------------------------------------------


def _folder(what: str, path: Path, needed: int) -> Generator[Line, None, float | None]:
    """Yield a line on a folder, and return its writing speed in MB/s."""
    path = path.expanduser().absolute()
    try:
        check_folder(path)
    except OSError as error:
        yield BAD, what, f"{path} cannot be written: {error.strerror}"
        return None
    existing = next(folder for folder in [path, *path.parents] if folder.is_dir())
    probe = existing / f".doctor.{os.getpid()}.tmp"
    block = random.randbytes(2**20)
    try:
        free = shutil.disk_usage(existing).free / 1e6
        started = time.perf_counter()
        with probe.open("wb") as file:
            for _ in range(min(PROBE, max(int(free / 2), 1))):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written = file.tell() / 1e6
        speed = written / (time.perf_counter() - started)
    except OSError as error:
        yield BAD, what, f"{existing} cannot be written: {error.strerror}"
        return None
    finally:
        probe.unlink(missing_ok=True)
    text = f"{existing}: {free / 1e3:,.1f} GB free, {speed:,.0f} MB/s"
    if free < needed:
        yield BAD, what, f"{text}; {needed / 1e3:.1f} GB are needed for checkpoints"
    else:
        yield (WARN if speed < 20 else OK), what, text
    return speed


def _data(path: Path | None) -> Iterator[Line]:
    if path is None:
        yield OK, "data", "none given: --data, or $RESLIGHTNING_DATA; the digits need none"
        return
    files = [path] if path.is_file() else _some_files(path)
    if not files:
        yield BAD, "data", f"no files under {path.absolute()}"
        return
    reads, started = 0, time.perf_counter()
    while time.perf_counter() - started < 1 and reads < 2000:
        file = os.open(random.choice(files), os.O_RDONLY)
        try:
            size = os.fstat(file).st_size
            offset = random.randrange(max(size - READ, 1))
            os.posix_fadvise(file, offset, READ, os.POSIX_FADV_DONTNEED)
            os.pread(file, READ, offset)
        finally:
            os.close(file)
        reads += 1
    rate = reads / (time.perf_counter() - started)
    text = f"{path}: {rate:,.0f} random reads of up to {READ // 1024} KiB a second in {len(files)} files"
    yield (OK if rate > 200 else WARN), "data", text + ("" if rate > 200 else ": copy it with data.stage_to")


def _some_files(path: Path) -> list[Path]:
    found: list[Path] = []
    for folder, _, names in os.walk(path):
        for file in (Path(folder) / name for name in names):
            found += [file] if file.is_file() and file.stat().st_size else []  # no link to nowhere, and no pipe
        if len(found) >= 1000:  # a tree of a million files takes minutes to walk
            break
    return found


# -- around it ----------------------------------------------------------------------------------


def _wandb() -> Iterator[Line]:
    options = Wandb().chosen()
    for name, why in refused(options).items():
        yield WARN, "W&B", f"{name}: {why}: runs are recorded offline without it"
    try:
        asked, mode = options.asked_mode(), options.resolved_mode()
    except UserError as error:
        yield BAD, "W&B", str(error).replace("\n", "; ")
        return
    if mode != "online":
        why = "no key found" if asked in ("auto", "online") else f"W&B's own variables say {asked}"
        if not refused(options) or mode == "disabled":
            yield OK, "W&B", f"{why}: runs are " + ("not recorded" if mode == "disabled" else "recorded offline")
        return
    host, problem = wandb_server()
    if problem:
        yield WARN, "W&B", f"{host} is not reachable ({problem}): runs are offline; set WANDB_MODE=offline"
    else:
        yield OK, "W&B", f"{host} is reachable"


def _versions() -> Iterator[Line]:
    found, problems = [], []
    for package, least, problem in KNOWN_PROBLEMS:
        try:
            installed = version(package)
        except PackageNotFoundError:
            problems.append(f"{package} is not installed")
            continue
        found.append(f"{package} {installed}")
        if tuple(map(int, re.findall(r"\d+", installed)[: len(least)])) < least:
            problems.append(f"{package} {installed}: {problem}")
    yield (BAD, "versions", "; ".join(problems)) if problems else (OK, "versions", ", ".join(found))


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
