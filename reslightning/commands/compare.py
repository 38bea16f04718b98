"""compare: which run won, by how much, what differed, what it cost, and how far it is from the paper."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from reslightning.commands import CommandParser
from reslightning.comparison import COLUMNS, DEFAULT, Filter, Group, column, differing, grouped, sections, select
from reslightning.errors import UserError
from reslightning.runs import RunRecord, find_runs
from reslightning.tables import FORMATS, render

WANDB = "wandb:"


def main(argv: list[str]) -> int:
    """Print tables of runs, and write figures and a page if asked."""
    words = argv[1:]
    if "--sort" in words[:-1]:  # a column with - in front would be taken for an option
        at = words.index("--sort")
        words[at : at + 2] = [f"--sort={words[at + 1]}"]
    args = _parser().parse_args(words)
    records, notes = _records(args)
    keys = {key for record in records for key in record.summary.get("options") or {}}
    shown = select(records, [Filter.parse(text, keys) for text in args.filter])
    if not shown:
        raise UserError(f"none of the {len(records)} runs is left by the filters: {' '.join(args.filter)}")
    names = args.columns.split(",") if args.columns else _with_values(shown)
    for name in [*names, args.sort.lstrip("-"), *([args.by] if args.by else [])]:
        column(name, keys)
    parts = [
        (title, grouped(runs, args.by, keys) if args.by else [Group([run]) for run in runs])
        for title, runs in sections(shown)
    ]
    print(render(parts, names, args.sort, args.format, args.by))
    if args.diff:
        rows = [Group([run]) for run in shown]
        print(render([("differences", rows)], ["run", *differing(shown)], "run", args.format))
    for note in notes:
        print(note, file=sys.stderr)
    if args.plot:
        from reslightning.figures import plot

        plot(shown, args.plot, by=args.by, log=args.log, over=args.over)
        print(f"figure written to {args.plot}", file=sys.stderr)
    if args.html:
        from reslightning.report import write_report

        write_report(parts, shown, args.html, names, args.sort, args.by)
        print(f"report written to {args.html}", file=sys.stderr)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning compare",
        description="Compare runs, from their directories or from W&B, with each other and with published results.",
    )
    add = parser.add_argument
    text = "run directories, folders of them, or wandb:ENTITY/PROJECT (default: runs)"
    add("runs", nargs="*", default=["runs"], metavar="RUN", help=text)
    add("--by", metavar="KEY", help="one row for all runs of a value, arch or an option: mean and deviation over them")
    add("--diff", action="store_true", help="a second table: the options in which the runs differ")
    text = "runs of which it holds, also with !=, < and >: top1<9 arch=resnet20"
    add("--filter", nargs="+", default=[], metavar="KEY=VALUE", help=text)
    add("--sort", default="top1", metavar="COLUMN", help="what rows are ordered by; -COLUMN for the largest first")
    text = f"columns, also any option (default: {','.join(DEFAULT)}; more: {_more()})"
    add("--columns", metavar="A,B", help=text)
    add("--format", choices=FORMATS, default="table", help="of the tables (default: table)")
    add("--plot", type=Path, metavar="FILE", help="curves as .png, .svg or .pdf: training thin, validation bold")
    add("--log", action="store_true", help="the figure's errors on a logarithmic axis")
    text = "the figure's horizontal axis (default: epoch)"
    add("--over", choices=["epoch", "iterations", "samples"], default="epoch", help=text)
    add("--html", type=Path, metavar="FILE", help="a page with table, curves and differences that needs no network")
    add("--group", help="wandb: the runs of a group")
    return parser


def _with_values(runs: Sequence[RunRecord]) -> list[str]:
    """Return the usual columns without those that would be empty."""
    return [name for name in DEFAULT if any(COLUMNS[name](run) is not None for run in runs)]


def _more() -> str:
    return ", ".join(name for name in COLUMNS if name not in DEFAULT)


def _records(args: Namespace) -> tuple[list[RunRecord], list[str]]:
    """Return the runs that were asked for, each once, and what there is to say of the others."""
    records: list[RunRecord] = []
    notes: list[str] = []
    for place in args.runs:
        if place.startswith(WANDB):
            from reslightning.wandb_runs import read_project

            found, problem = read_project(place.removeprefix(WANDB), group=args.group)
            records += found
            notes += [problem] if problem else []
        else:
            found, skipped = _from_folder(Path(place).expanduser())
            records += found
            notes += skipped
    unique, copies = _without_copies(records)
    return unique, [*notes, *copies, *(f"{run.source}: {problem}" for run in unique for problem in run.problems)]


def _from_folder(path: Path) -> tuple[list[RunRecord], list[str]]:
    directories = find_runs(path)
    records, skipped = [], []
    for directory in directories:
        try:
            records.append(RunRecord.from_directory(directory))
        except UserError as error:
            skipped.append(f"skipped {error}")
    if not records:
        found = f"; {len(skipped)} folders were skipped:\n" + "\n".join(skipped[:5]) if skipped else ""
        looked = "looked for: folders with summary.json or metrics.csv, at any depth"
        raise UserError(f"no runs at {path.absolute()}{found}\n{looked}")
    return records, ([f"{len(skipped)} folders are no runs:"] if len(skipped) > 1 else []) + skipped


def _without_copies(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """Return each run once, the copy that went furthest, and a line for each other copy."""
    kept: dict[str, RunRecord] = {}
    lines = []
    for record in records:
        key = str(record.summary.get("run_id") or record.source)
        other = kept.setdefault(key, record)
        if other is not record:
            first, second = sorted((other, record), key=lambda run: -len(run.history))
            kept[key] = first
            lines.append(f"{second.source} is a copy of {first.source} (run {key}) and not counted")
    return list(kept.values()), lines
