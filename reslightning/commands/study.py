"""study: an experiment from one file: its runs or its analysis, and a page with claim, numbers, figures and verdict."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from jsonargparse import Namespace

from reslightning.analysis.findings import read_findings
from reslightning.cli.configs import STUDIES, available_studies, config_folders
from reslightning.cli.parser import CommandParser
from reslightning.commands import analyze, submit
from reslightning.compare.study import Scale, ScaleName, Study, is_done, read_study
from reslightning.compare.study_page import PAGE, Found, cells_of, of_runs, write_page
from reslightning.errors import UserError, near_misses
from reslightning.files import check_folder, exclusive, read_json, write_atomically
from reslightning.run import layout
from reslightning.run.record import RunRecord

if TYPE_CHECKING:
    from reslightning.commands.submission import Request
    from reslightning.run.directory import Run

MADE = "study.json"  # of which runs and questions a study's folder is


def main(argv: list[str]) -> int:
    """Run what is missing, if asked, and write the page of what is there."""
    args = _parser().parse_args(argv[1:])
    path = find_study(args.name)
    study = read_study(path)
    args.scale = args.scale or next(name for name in get_args(ScaleName) if name in study.scales)
    if args.scale not in study.scales:
        raise UserError(f"{path} has no scale {args.scale}; allowed: {', '.join(study.scales)}")
    if args.local and args.site:
        raise UserError("--local trains here, and --site queues on Slurm: give one of them")
    if args.gpus and not args.site:
        raise UserError(f"--gpus {args.gpus} would not count without --site FILE\nLeave it out.")
    if args.dry_run:
        _list(study, path)
        return 0
    runs = _prepared(study, path, args)  # nothing is made for what is refused
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
        return _run(study, path, args, to, *runs) if runs else _measure(study, path, args, to)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning study",
        description="Run an experiment at one of its scales, and write a page: the claim, errors with their spread, "
        "curves, and whether the claim is supported. What has been run already is not run again.",
    )
    text = f"one of {', '.join(available_studies())}, or the file of a study of one's own"
    parser.add_argument("name", metavar="NAME", help=text)
    text = "tiny (minutes), small (hours on a laptop) or full (the paper's); default: the smallest there is"
    parser.add_argument("--scale", choices=get_args(ScaleName), help=text)
    parser.add_argument("--local", action="store_true", help="run here what is missing, one run after the other")
    text = "queue on Slurm what is missing, with a site's defaults: slurm/sites/sol.env"
    parser.add_argument("--site", type=Path, metavar="FILE", help=text)
    parser.add_argument("--gpus", metavar="N", help="with --site: GPUs of each run's node")
    parser.add_argument("--dry_run", action="store_true", help="list the runs, and what they cost, at every scale")
    text = "where page, figures and table go (default: studies/NAME-SCALE)"
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


def _commands(scale: Scale, name: str) -> list[list[str]]:
    grid = [f"{key}={','.join(map(_word, values))}" for key, values in scale.grid.items()]
    return submit.commands_of(shlex.split(scale.options), grid, name)[1]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _list(study: Study, path: Path) -> None:
    for scale, how in study.scales.items():
        commands = [["analyze", *shlex.split(how.options)]]
        if study.metric:
            with _named(path, how):
                commands = _commands(how, f"{path.stem}-{scale}")
        print(f"{scale}: {len(commands)} run{'s' * (len(commands) > 1)}, {how.cost}")
        for command in commands:
            print(f"  reslightning {'fit ' * bool(study.metric)}{shlex.join(command)}")


@contextlib.contextmanager
def _named(path: Path, scale: Scale) -> Iterator[None]:
    """Say in which line of a study's file a mistake is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}, line {scale.line_of(str(error))}: {error}") from error


def _prepared(study: Study, path: Path, args: Namespace) -> tuple[Request, list[tuple[Run, str, list[str]]]] | None:
    """Return what each job is given and the runs of a scale, known to be accepted; None of an analysis."""
    from reslightning.commands.submission import Request

    if not study.metric:
        if args.site:
            raise UserError(f"{path} trains nothing: --local measures it here\nLeave out --site.")
        return None
    request, scale = Request(), study.scales[args.scale]
    if args.site:
        asked = ["--site", str(args.site), *(["--gpus", args.gpus] if args.gpus else [])]
        request = submit.request_of(submit.parser().parse_args(asked))
    with _named(path, scale):
        return request, submit.previewed(request, _commands(scale, f"{path.stem}-{args.scale}"))


def _run(
    study: Study, path: Path, args: Namespace, to: Path, request: Request, wanted: Sequence[tuple[Run, str, list[str]]]
) -> int:
    name, scale, status = f"{path.stem}-{args.scale}", study.scales[args.scale], 0
    missing = [one for one in wanted if not is_done(one[0].summary)]
    notes = _changes(study, path, [run.directory for run, _, _ in wanted], to)
    for note in notes:
        print(note)
    if args.local and missing:
        status = submit.train_here(request, [command for _, _, command in missing], 1)
    elif args.site and missing:
        from reslightning.commands import submission

        for one in submission.submit(request, name, [(run.directory, text) for run, text, _ in missing]):
            print(f"job {one[0][0]}, log {one[0][1]}")
    places = [(cell, run.directory) for cell, (run, _, _) in zip(cells_of(scale.grid), wanted, strict=True)]
    runs = [(cell, RunRecord.from_directory(place)) for cell, place in places if (place / "summary.json").is_file()]
    done = [(cell, run) for cell, run in runs if is_done(run.summary)]
    how = "" if len(done) == len(wanted) else "; --local trains the others here, --site FILE queues them on Slurm"
    print(f"{len(done)} of {len(wanted)} runs are finished{how}")
    if done:
        _write(study, path, args.scale, of_runs(study, args.scale, done, to), notes, to)
    return 0 if len(done) == len(wanted) else status  # a training that diverged is an answer, too


def _changes(study: Study, path: Path, directories: Sequence[Path], to: Path) -> list[str]:
    """Say what a study's file was changed in since it had results, and note what it is now."""
    before, _ = read_json(to / MADE)
    now, asked = list(map(str, directories)), [vars(question) for question in study.decide]
    asked = json.loads(json.dumps(asked))
    had = [one for one in before.get("runs", []) if is_done(read_json(Path(one) / layout.SUMMARY)[0])]
    notes = []
    if old := [one for one in had if one not in now]:
        notes.append(f"{len(old)} runs were made with an older version of {path}, and do not count: {', '.join(old)}")
    first = before.get("decide", asked) if had else asked
    if first != asked:
        margins = "; ".join(f"{one['that']}: {_margin(one)}" for one in first)
        notes.append(f"the questions were changed when results were there; they were: {margins}")
    made = {"format": 1, "runs": sorted({*before.get("runs", []), *now}), "decide": first}
    write_atomically(to / MADE, json.dumps(made, indent=1) + "\n")
    return notes


def _margin(question: Mapping[str, Any]) -> str:
    side = "above" if question["above"] is not None else "below"
    return f"{' - '.join(question['difference'])} {side} {question[side]:g} points"


def _measure(study: Study, path: Path, args: Namespace, to: Path) -> int:
    """Run an analysis, which does what is left of it, and write its page."""
    scale = study.scales[args.scale]
    if not args.local:
        print(f"--local measures it here: {scale.cost}")
        return 0
    text = io.StringIO()
    with contextlib.redirect_stdout(text), _named(path, scale):
        status = analyze.main(["analyze", *shlex.split(scale.options), "--to", str(to)])
    print(text.getvalue(), end="")
    rule, findings = read_findings(to)
    found = Found(findings, rule, figures=sorted(to.rglob("*.png")), text=text.getvalue())
    _write(study, path, args.scale, found, [], to)
    return status


def _write(study: Study, path: Path, scale: str, found: Found, notes: Sequence[str], to: Path) -> None:
    """Write the page, and print what is decided."""
    for note in found.notes:
        print(note)
    found.notes = [*notes, *found.notes]
    write_page(study, path.stem, scale, shlex.join(["reslightning", *sys.argv[1:]]), found, to)
    for that, verdict, numbers in found.verdicts if study.metric else ():  # an analysis has said so itself
        print(f"{verdict}: {that} ({numbers})")
    print(f"written to {to / PAGE}")
