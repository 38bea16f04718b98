"""study: an experiment from one file: its runs, and a page with claim, numbers, figure and verdict."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from jsonargparse import Namespace

from reslightning.cli.configs import STUDIES, available_studies, config_folders
from reslightning.cli.parser import CommandParser
from reslightning.commands import submit
from reslightning.compare.columns import column
from reslightning.compare.figures import curves, plot
from reslightning.compare.groups import Group, Section, Table, grouped, statistic
from reslightning.compare.study import Answer, Question, Scale, Study, answer, errors, read_study
from reslightning.errors import UserError, near_misses
from reslightning.files import check_folder, exclusive, write_atomically
from reslightning.run.record import RunRecord
from reslightning.run.summary import error_percent

PAGE, FIGURE, TABLE = "index.html", "curves.png", "runs.csv"
COLUMNS = ("train/top1", "val/top1")
DONE = ("finished", "failed")  # a training that diverged is an answer, too


def main(argv: list[str]) -> int:
    """Run what is missing, if asked, and write the page of what is there."""
    args = _parser().parse_args(argv[1:])
    path = find_study(args.name)
    study = read_study(path)
    if args.scale not in study.scales:
        raise UserError(f"{path} has no scale {args.scale}; allowed: {', '.join(study.scales)}")
    if args.local and args.site:
        raise UserError("--local trains here, and --site queues on Slurm: give one of them")
    if args.dry_run:
        _list(study, path.stem)
        return 0
    to = (args.to or Path(STUDIES) / f"{path.stem}-{args.scale}").expanduser()
    try:
        check_folder(to)
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--to {to} cannot be written: {error.strerror}") from error
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive(to / ".lock", wait=False))
        except TimeoutError as error:
            raise UserError(f"another process is at work in {to}\nWait for its end, or stop it.") from error
        return _run(study, path, args, to)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning study",
        description="Run an experiment at one of its scales, and write a page: the claim, errors with their spread, "
        "curves, and whether the claim is supported. What has been run already is not run again.",
    )
    text = f"one of {', '.join(available_studies())}, or the file of a study of one's own"
    parser.add_argument("name", metavar="NAME", help=text)
    text = "tiny (minutes), small (hours on a laptop) or full (the paper's); default: tiny"
    parser.add_argument("--scale", choices=get_args(Scale), default="tiny", help=text)
    parser.add_argument("--local", action="store_true", help="train here what is missing, one run after the other")
    text = "queue on Slurm what is missing, with a site's defaults: slurm/sites/sol.env"
    parser.add_argument("--site", type=Path, metavar="FILE", help=text)
    parser.add_argument("--gpus", metavar="N", help="with --site: GPUs of each run's node")
    parser.add_argument("--dry_run", action="store_true", help="list the runs, and what they cost, at every scale")
    text = "where page, figure and table go (default: studies/NAME-SCALE)"
    parser.add_argument("--to", type=Path, metavar="DIR", help=text)
    return parser


def find_study(name: str) -> Path:
    """Return the file of a study: a path, or a name in ./configs/studies or in the package.

    Raises:
        UserError: there is none.
    """
    places = [Path(name).expanduser(), *(folder / STUDIES / f"{name}.yaml" for folder in config_folders())]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        known = available_studies()
        raise UserError(f"no study {name!r}{near_misses(name, known)}\nallowed: a file, or {', '.join(known)}")
    return found


def _commands(study: Study, scale: str, name: str) -> list[list[str]]:
    grid = [f"{key}={','.join(map(str, values))}" for key, values in study.grid.items()]
    return submit.commands_of(shlex.split(study.scales[scale]["fit"]), grid, f"{name}-{scale}")[1]


def _list(study: Study, name: str) -> None:
    for scale, how in study.scales.items():
        commands = _commands(study, scale, name)
        print(f"{scale}: {len(commands)} runs, {how['cost']}")
        for command in commands:
            print(f"  reslightning fit {shlex.join(command)}")


def _run(study: Study, path: Path, args: Namespace, to: Path) -> int:
    from reslightning.commands.submission import Request

    name, status = f"{path.stem}-{args.scale}", 0
    request = Request()
    if args.site:
        asked = ["--site", str(args.site), *(["--gpus", args.gpus] if args.gpus else [])]
        request = submit.request_of(submit.parser().parse_args(asked))
    wanted = submit.previewed(request, _commands(study, args.scale, path.stem))
    missing = [one for one in wanted if one[0].summary.get("status") not in DONE]
    if args.local:
        status = submit.train_here(request, [command for _, _, command in missing], 1)
    elif args.site and missing:
        from reslightning.commands import submission

        for one in submission.submit(request, name, [(run.directory, text) for run, text, _ in missing]):
            print(f"job {one[0][0]}, log {one[0][1]}")
    runs = [
        RunRecord.from_directory(run.directory) for run, _, _ in wanted if (run.directory / "summary.json").is_file()
    ]
    done = sum(run.status in DONE for run in runs)
    how = "" if done == len(wanted) else "; --local trains the others here, --site FILE queues them on Slurm"
    print(f"{done} of {len(wanted)} runs are finished{how}")
    if done:
        _write(study, path, args.scale, runs, to)
    return status


def _write(study: Study, path: Path, scale: str, runs: Sequence[RunRecord], to: Path) -> None:
    """Write page, figure and table of the runs that are finished, and print what is decided."""
    finished = [run for run in runs if run.status in DONE]
    groups = grouped(Section(study.claim, finished, True), [column(study.compared, {study.compared})])
    lines, notes = curves([Table(study.claim, groups)], "iterations")
    plot(lines, to / FIGURE, log=False, over="iterations", title=study.claim)
    found = errors(study, finished)
    answers = [(question, answer(question, found)) for question in study.decide]
    rows = [[group.label, len(group.runs), *(_spread(group, name) for name in COLUMNS)] for group in groups]
    heads = [study.compared, "runs", "training error", "validation error"]
    _write_table(to / TABLE, study, finished)
    page = _page(study, path, scale, heads, rows, answers, notes, to)
    write_atomically(to / PAGE, page)
    for question, one in answers:
        print(f"{verdict(one)}: {question.that}{_numbers(one)}")
    print(f"written to {to / PAGE}")


def _spread(group: Group, name: str) -> str:
    values = [error_percent(run.last[name]) for run in group.runs if name in run.last]
    if not values:
        return ""
    found = statistic(values, len(values))
    return f"{found.mean:.2f}" + ("" if found.deviation is None else f" ± {found.deviation:.2f}") + " %"


def _write_table(path: Path, study: Study, runs: Sequence[RunRecord]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *study.grid, *COLUMNS])
    for run in runs:
        options = run.summary.get("options") or {}
        writer.writerow([run.source, *(options.get(key) for key in study.grid), *(run.last.get(c) for c in COLUMNS)])
    write_atomically(path, text.getvalue())


def verdict(one: Answer | None) -> str:
    """Return whether a part of a claim is supported, in words."""
    return one.verdict if one else "not decided"


def _numbers(one: Answer | None) -> str:
    if one is None:
        return " (it needs two finished runs of each)"
    more = f"; some {one.seeds} seeds of each would decide, if they spread alike" if one.seeds else ""
    return f": {one.difference:+.2f} points, 95 % interval {one.low:+.2f} to {one.high:+.2f}{more}"


def _page(
    study: Study,
    path: Path,
    scale: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Any]],
    answers: Sequence[tuple[Question, Answer | None]],
    notes: Sequence[str],
    to: Path,
) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(loader=PackageLoader("reslightning", "compare"), autoescape=True, undefined=StrictUndefined)
    return pages.get_template("study.html.j2").render(
        study=study,
        name=path.stem,
        scale=scale,
        heads=heads,
        rows=rows,
        answers=[(question, verdict(one), _numbers(one).lstrip(": ")) for question, one in answers],
        notes=notes,
        figure=base64.b64encode((to / FIGURE).read_bytes()).decode(),
        command=shlex.join(["reslightning", *sys.argv[1:]]),
    )
