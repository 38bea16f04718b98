"""compare: which run won, by how much, what differed, what it cost, and how far it is from the paper."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from jsonargparse import Namespace

from reslightning.cli.parser import CommandParser
from reslightning.compare.columns import COLUMNS, DEFAULT, RUNS, Column, column, differing, usual_columns
from reslightning.compare.evaluations import evaluated
from reslightning.compare.figures import check_suffix, curves, plot
from reslightning.compare.filters import Filter, select
from reslightning.compare.groups import Table, grouped, sections
from reslightning.compare.labels import heading
from reslightning.compare.tables import FORMATS, headed, order, render
from reslightning.errors import UserError
from reslightning.run.record import RunRecord, runs_below

WANDB = "wandb:"


def main(argv: list[str]) -> int:
    """Print tables of runs, and write figures and a page if asked."""
    words = argv[1:]
    if "--sort" in words[:-1]:  # a column with - in front would be taken for an option
        at = words.index("--sort")
        words[at : at + 2] = [f"--sort={words[at + 1]}"]
    args = _parser().parse_args(words)
    args.by, args.columns = _names(args.by), _names(args.columns)
    args.plot, args.html = _places(args)
    records, notes = _records(args)
    keys = {key for record in records for key in record.summary.get("options") or {}}
    shown = select(records, [Filter.parse(text, keys) for text in args.filter])
    if not shown:
        raise UserError(f"none of the {len(records)} runs is left by the filters: {' '.join(args.filter)}")
    notes += [f"{run.source}: {problem}" for run in shown for problem in run.problems]
    names = args.columns or (["run", "top1"] if args.diff else usual_columns(shown))
    if args.diff:
        different = [key for key in differing(shown) if key not in names]
        names += different
        notes += [] if different else ["the runs' options are the same"]
    keyed, sort = args.by or [], args.sort.removeprefix("-")
    asked = {*keyed, *({*names, sort} - {RUNS.name})}
    known = {RUNS.name: RUNS} | {name: column(name, keys) for name in sorted(asked)}
    by = [known[name] for name in keyed]
    tables = _tables(shown, by, known[sort], largest_first=sort != args.sort)
    columns, left_out = headed([known[name] for name in names], by), list[Column]()
    if not args.columns:
        columns, left_out = _worth_showing(tables, columns, len(by) + 3, args.format)
    if left_out:
        narrow = ", ".join(column.name for column in left_out)
        notes.append(f"left out for the terminal's width: {narrow} (--columns chooses)")
    print(render(tables, columns, args.format))
    if args.format in ("csv", "json"):  # the other formats have room for it
        notes += [note for table in tables for group in table.groups for note in group.notes]
    if args.plot or args.html:
        notes += _draw(args, tables, [*columns, *left_out])
    for note in notes:
        print(note, file=sys.stderr)
    return 0


def _places(args: Namespace) -> list[Path | None]:
    """Return where figure and page go, once it is known, before any is written, that both can be."""
    figure, page = places = [file and file.expanduser() for file in (args.plot, args.html)]
    for option, counts in (("log", figure), ("over", figure or page)):
        if args[option] not in (False, "epoch") and not counts:
            raise UserError(f"--{option} would not count: it is of the curves\nGive --plot, or leave it out.")
    if figure:
        check_suffix(figure)
    if figure and figure == page:
        raise UserError(f"--plot and --html are both {page}: the page would replace the figure\nGive another file.")
    if page and page.suffix.lower() not in (".html", ".htm"):  # a run's own file, say, would be replaced
        raise UserError(f"--html {page} is no page; allowed: .html\nGive another file.")
    for file in filter(None, places):
        if file.is_dir() or not file.absolute().parent.is_dir():
            raise UserError(f"cannot write {file}: it is a folder, or its folder does not exist\nGive another.")
    return places


def _tables(runs: list[RunRecord], by: list[Column], sort: Column, *, largest_first: bool) -> list[Table]:
    """Return a table for each section, in order; those that are not ranked by name."""
    tables = []
    for section in sections(runs):
        place, down = (sort, largest_first) if section.ranked else (COLUMNS["run"], False)
        tables.append(Table(section.title, order(grouped(section, by), place, largest_first=down)))
    return tables


def _worth_showing(
    tables: list[Table], columns: list[Column], least: int, style: str
) -> tuple[list[Column], list[Column]]:
    """Return the columns that any row has a value in, and those of them that a terminal has no room for."""
    groups = [group for table in tables for group in table.groups]
    kept = [column for column in columns if any(group.value(column) not in (None, "") for group in groups)]
    if style != "table" or not sys.stdout.isatty():
        return kept, []
    width = shutil.get_terminal_size().columns
    rules = [line.split("  ") for line in render(tables, kept, style).splitlines() if line.startswith("--")]
    room = min(sum(end <= width + 2 for end in accumulate(len(part) + 2 for part in rule)) for rule in rules)
    return kept[: max(room, least)], kept[max(room, least) :]


def _draw(args: Namespace, tables: list[Table], columns: list[Column]) -> list[str]:
    """Write figure and page, and return what there is to say of them."""
    lines, notes = curves(tables, args.over)
    if args.plot:
        plot(lines, args.plot, log=args.log, over=args.over, title=heading(tables))
        notes.append(f"figure written to {args.plot}")
    if args.html:
        from reslightning.compare.report import write_report

        write_report(tables, lines, args.html, columns, args.over)
        notes.append(f"report written to {args.html}")
    return notes


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning compare",
        description="Compare runs, from their directories or from W&B, with each other and with published results.",
    )
    add = parser.add_argument
    text = "run directories, folders of them, or wandb:ENTITY/PROJECT (default: runs)"
    add("runs", nargs="*", default=["runs"], metavar="RUN", help=text)
    text = "what test and validate said by this protocol (ten-crop), in place of the training's validation"
    add("--protocol", metavar="NAME", help=text)
    text = "one row for all runs of a value, arch or options, several with commas: mean and deviation over them"
    add("--by", metavar="KEY", help=text)
    add("--diff", action="store_true", help="the options in which the runs differ, instead of the usual columns")
    text = "runs of which it holds, also with !=, < and >: 'top1<9' arch=resnet20"
    add("--filter", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)
    add("--sort", default="top1", metavar="COLUMN", help="what rows are ordered by; -COLUMN for the largest first")
    text = f"columns, also any option (default: {','.join(DEFAULT)}; more: {_more()})"
    add("--columns", metavar="A,B", help=text)
    add("--format", choices=FORMATS, default="table", help="of the tables (default: table)")
    add("--plot", type=Path, metavar="FILE", help="curves as .png, .svg or .pdf: training thin, validation bold")
    add("--log", action="store_true", help="the figure's errors on a logarithmic axis")
    text = "the curves' horizontal axis (default: epoch)"
    add("--over", choices=["epoch", "iterations", "samples"], default="epoch", help=text)
    add("--html", type=Path, metavar="FILE", help="a page with table, curves and differences that needs no network")
    add("--group", help="runs of a group of W&B's, of a grid say; a server is asked for those alone")
    return parser


def _more() -> str:
    return ", ".join(name for name in COLUMNS if name not in DEFAULT)


def _records(args: Namespace) -> tuple[list[RunRecord], list[str]]:
    """Return the runs that were asked for, each once, and what there is to say of the others."""
    records: list[RunRecord] = []
    notes: list[str] = []
    seen: set[Path] = set()
    for place in dict.fromkeys(args.runs):
        if place.startswith(WANDB):
            from reslightning.track.wandb_runs import read_project

            found, skipped = read_project(place.removeprefix(WANDB), group=args.group)
        else:
            found, skipped = runs_below(Path(place).expanduser(), seen)
        records += found
        notes += skipped
    if args.group:
        records = [run for run in records if run.summary.get("group") == args.group]
        if not records:
            raise UserError(f"no run is of the group {args.group!r}")
    unique, copies = _without_copies(records)
    names = Counter(run.name for run in unique)
    for run in unique:
        if names[run.name] > 1:
            run.name = run.source
    found, lines = evaluated(unique, args.protocol) if args.protocol else (unique, [])
    return found, [*notes, *copies, *lines]


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
