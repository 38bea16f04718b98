"""submit: the same training as a Slurm job, a chain of jobs or a job array."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from reslightning.cli.choice import beside
from reslightning.cli.given import configs_named
from reslightning.cli.options import check_options
from reslightning.cli.parser import CommandParser
from reslightning.errors import Stopped, UserError
from reslightning.files import check_folder
from reslightning.run.directory import Run
from reslightning.run.fingerprint import differences
from reslightning.run.summary import Fingerprint

if TYPE_CHECKING:
    from reslightning.commands.submission import Request

SHORT = {  # sbatch's options by the same name
    "time": "limit, D-HH:MM:SS or minutes",
    "partition": "the nodes' partition",
    "account": "who pays",
    "qos": "quality of service",
    "mem": "memory a node, 120G",
}


def main(argv: list[str]) -> int:
    """Check every run of the command, then queue what is not finished."""
    split = argv.index("--") if "--" in argv else len(argv)
    options = parser()
    args = options.parse_args(argv[1:split])
    tail = argv[split + 1 :]
    if tail[:1] != ["fit"]:
        given = f"got {' '.join(tail)!r}" if tail else "got nothing behind --"
        raise UserError(f"submit trains: {given}; expected reslightning submit [OPTIONS] -- fit -c CONFIG ...")
    _refuse_idle(args, options.get_defaults())
    from reslightning.commands import submission

    request = request_of(args)
    name, commands = commands_of(tail[1:], args.grid, args.name)
    if args.dry_run:
        print(submission.script(request, name, len(commands)), end="")
    elif args.local:
        unfinished = _unfinished(request, commands)
        return train_here(request, [command for _, _, command in unfinished], args.array_parallelism or 1)
    else:
        submit(tail[1:], request, args.grid, args.name)
    return 0


def submit(
    argv: Sequence[str], request: Request, grid: Sequence[str] = (), name: str | None = None
) -> dict[Path, list[tuple[str, Path]]]:
    """Queue ``fit ARGV``, or every run of a grid of it, as the command line does.

    Args:
        argv: the options of ``fit``: ["-c", "cifar10", "--model.arch", "resnet56"].
        request: what each job is given.
        grid: ["model.arch=resnet20,plain20", "seed_everything=0,1"] makes a run of every combination.
        name: the jobs' name; none given means one that the same command always gets.

    Returns:
        For each unfinished run, by its directory, number and log of each of its jobs.

    Raises:
        UserError: a command line is not accepted, or Slurm refuses; nothing is queued then.
    """
    from reslightning.commands import submission

    name, commands = commands_of(argv, grid, name)
    unfinished = _unfinished(request, commands)
    if not unfinished:
        print("nothing to submit")
        return {}
    jobs = submission.submit(request, name, [(directory, text) for directory, text, _ in unfinished])
    for (directory, _, _), run in zip(unfinished, jobs, strict=True):
        for number, log in run:
            print(f"job {number}: {directory}, log {log}")
    return {directory: run for (directory, _, _), run in zip(unfinished, jobs, strict=True)}


def commands_of(argv: Sequence[str], grid: Sequence[str], name: str | None) -> tuple[str, list[list[str]]]:
    """Return the jobs' name and the options of every run, whose configs and keys are known to exist."""
    from reslightning.commands import submission

    cells = submission.grid_cells(grid)
    if name is not None and (not name.strip(".") or not name.isprintable() or re.search(r"^-|[/%\\]", name)):
        raise UserError(f"--name {name!r} names no folder of --logs and no job; allowed: letters, digits, - and _")
    name = name or submission.job_name(argv, grid)
    grouped = len(cells) == 1 or any(word.startswith("--wandb.group") for word in argv)
    group = [] if grouped else [f"--wandb.group={name}"]
    commands = [[*argv, *cell, *group] for cell in cells]
    for command in commands:
        with configs_named(words := ["fit", *command]):
            check_options(words)
    return name, commands


def parser() -> CommandParser:
    """Return what reads its command line, up to the --."""
    made = CommandParser(
        prog="reslightning submit",
        description="Queue trainings on Slurm: reslightning submit [OPTIONS] -- fit -c CONFIG ...",
    )
    add = made.add_argument
    add("--nodes", type=PositiveInt, default=1, metavar="N", help="nodes (default: 1)")
    add("--gpus", metavar="N", help="GPUs on each node, 4 or a100:4; one task for each (default: a task on CPUs)")
    add("--cpus", metavar="N", help="CPUs for each task")
    for option, text in SHORT.items():
        add(f"--{option}", metavar=option.upper(), help=text)
    add("--site", type=Path, metavar="FILE", help="take defaults from a site's file, slurm/sites/sol.env")
    add("--sbatch", nargs="+", default=[], metavar="KEY=VALUE", help="other options of sbatch: constraint=a100_80")
    add("--segments", type=PositiveInt, default=1, metavar="N", help="a chain of N jobs of the same run, none requeued")
    add("--grid", nargs="+", default=[], metavar="KEY=A,B", help="a run for every combination, as a job array")
    add("--array_parallelism", type=PositiveInt, metavar="N", help="runs of a grid at a time (default: all)")
    add("--name", help="the jobs' name (default: the command's own; jobs of one name follow each other)")
    add("--logs", type=Path, default=Path("submitted"), metavar="DIR", help="scripts and output (default: submitted)")
    add("--snapshot", action="store_true", help="run the code as it is now, whatever is edited later")
    add("--dry_run", action="store_true", help="print the sbatch script; check only that configs and options exist")
    add("--local", action="store_true", help="train here instead, one run after the other")
    return made


def _refuse_idle(args: Namespace, defaults: Namespace) -> None:
    """Raise UserError for options that would not count beside others, or without them."""
    queued = ("nodes", "cpus", *SHORT, "sbatch", "segments", "logs", "snapshot", "dry_run")
    idle = [f"--{name}" for name in queued if args[name] != defaults[name]]
    if args.local and idle:
        raise UserError(f"--local trains here and queues nothing: {', '.join(idle)} would not count\nLeave one out.")
    if args.array_parallelism and not args.grid:
        raise UserError(f"--array_parallelism {args.array_parallelism} would not count without a --grid\nLeave it out.")


def request_of(args: Namespace) -> Request:
    """Return what each job is given, by the options and the site's file."""
    from reslightning.commands import submission

    if args.site:
        os.environ.update(submission.site_variables(args.site))
    options = submission.environment_options()
    if args.mem is not None:  # of sbatch's three, one alone may be given
        options = {name: value for name, value in options.items() if not name.startswith("mem-per-")}
    given = {name: args[name] for name in SHORT if args[name] is not None}
    given |= {"cpus-per-task": args.cpus} if args.cpus is not None else {}
    for pair in args.sbatch:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--sbatch {pair!r} is not KEY=VALUE, like constraint=a100_80")
        key = key.lstrip("-").replace("_", "-")
        if key in given:
            raise UserError(f"sbatch's {key} is given twice, as {given[key]} and as {value}\nLeave one of them out.")
        given[key] = value
    folder = args.logs.expanduser().absolute()
    check_folder(folder)
    if "%" in str(folder):
        raise UserError(
            f"--logs {folder} has a %, behind which Slurm puts a job's number or name\nGive another folder."
        )
    return submission.Request(
        options | given, args.nodes, args.gpus, args.segments, args.array_parallelism, args.snapshot, args.logs
    )


def _unfinished(request: Request, commands: list[list[str]]) -> list[tuple[Path, str, list[str]]]:
    """Return directory, configuration and arguments of the runs to train, and say which are not.

    Raises:
        UserError: one of the command lines is not accepted; nothing is queued then.
    """
    found: list[tuple[Path, str, list[str]]] = []
    for run, text, command in previewed(request, commands):
        status = run.summary.get("status", "new")
        if status == "finished":
            print(f"{run.directory}: finished already")
        else:
            print(f"{run.directory}: {status}" + (f" at step {run.summary['global_step']}" if run.summary else ""))
            found.append((run.directory, text, command))
    return found


def previewed(request: Request, commands: Sequence[Sequence[str]]) -> list[tuple[Run, str, list[str]]]:
    """Return of every command line of ``fit`` its run, its configuration, and arguments that mean just this run.

    Args:
        request: what each job is given.
        commands: the options of each run.

    Raises:
        UserError: one of them is not accepted, or two are of one run.
    """
    from reslightning.cli.preview import Preview

    found: list[tuple[Run, str, list[str]]] = []
    taken: dict[Path, Fingerprint | None] = {}
    for command in commands:
        preview = Preview(["fit", *request.trainer, *command], request.nodes, request.tasks_per_node)
        run, content = preview.run, preview.fingerprint
        if content and (before := taken.setdefault(run.directory, content)) and differences(before, content):
            run = Run(beside(run.directory, content))  # a grid over data: the cells are runs of the same options
        # Fixed now: an edit or a requeue must not choose another directory.
        fixed = [word for word in command if word != "--fresh"]
        found.append((run, preview.text, [*fixed, f"--run_dir={run.directory}"]))
    directories = [run.directory for run, _, _ in found]
    if len(set(directories)) < len(directories):
        twice = max(directories, key=directories.count)
        raise UserError(
            f"several runs of the grid share a directory, {twice}: their values mean the same, or all have one "
            "--run_dir\nGive every value once, and no --run_dir."
        )
    return found


def train_here(request: Request, commands: list[list[str]], parallel: int) -> int:
    """Train runs in processes of their own, so many at a time, and return the highest of their statuses.

    A signal that asks to stop goes on to them, and what has not begun is left for the next time.
    """
    children: list[subprocess.Popen[bytes]] = []

    def train(command: list[str]) -> int:
        words = [sys.executable, "-m", "reslightning", "fit", *request.trainer, *command]
        with subprocess.Popen(words) as child:
            children.append(child)
            return child.wait()

    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        try:
            statuses = list(pool.map(train, commands))
        except Stopped as stopped:
            if stopped.signal != signal.SIGINT:  # which a terminal sends to all by itself, and twice would be at once
                for child in children:
                    child.send_signal(stopped.signal)
            raise
    print(f"{statuses.count(0)} of {len(statuses)} runs finished in {time.monotonic() - started:.0f} s")
    return max(statuses, default=0)
