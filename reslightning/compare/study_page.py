"""A study's page, figures and table; without torch."""

from __future__ import annotations

import base64
import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from reslightning.compare.figures import curves, plot
from reslightning.compare.groups import Group, Table, statistic
from reslightning.compare.study import Answer, Study, answer, errors, is_lost
from reslightning.files import write_atomically
from reslightning.run.record import RunRecord

Cell: TypeAlias = Mapping[str, object]  # a value for each option of a grid
PAGE, FIGURE, TABLE = "index.html", "curves.png", "runs.csv"
COLUMNS = {"train/top1": "training error", "val/top1": "validation error"}
RULE = (
    "Errors of the last epoch by {metric}; a part is supported where the whole 95 % interval of the difference of "
    "means (Welch's) lies on its side of the margin, not supported where it lies on the other, and else not decided."
)


@dataclass
class Found:
    """What came out of a study.

    Attributes:
        verdicts: each part of the claim, its verdict, and the numbers behind it.
        rule: how it was decided.
        heads: of the table.
        rows: of the table.
        figures: PNG files.
        text: what an analysis printed.
        notes: what else is to be known.
    """

    verdicts: Sequence[tuple[str, str, str]]
    rule: str = ""
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    figures: Sequence[Path] = ()
    text: str = ""
    notes: Sequence[str] = field(default_factory=list)


def of_runs(study: Study, scale: str, runs: Sequence[tuple[Cell, RunRecord]], to: Path) -> Found:
    """Return what came out of trainings; figure and table are written.

    Args:
        study: whose.
        scale: at which scale.
        runs: those that are done, each with the grid's options of it.
        to: the study's folder.
    """
    how = study.scales[scale]
    groups: dict[str, list[RunRecord]] = {str(value): [] for value in how.grid[how.compared]}
    for cell, run in runs:
        groups[str(cell[how.compared])].append(run)
    table = Table(study.claim, [Group(group, {how.compared: value}) for value, group in groups.items() if group])
    lines, notes = curves([table], "iterations")
    plot(lines, to / FIGURE, log=False, over="iterations", title=study.claim)
    _write_table(to / TABLE, how.grid, runs)
    if lost := sum(is_lost(run.summary) for _, run in runs):
        notes.append(f"{lost} of {len(runs)} runs ended with a loss that is not finite: they count as chance")
    found = errors(str(study.metric), groups)
    by_column = [errors(name, groups) for name in COLUMNS]
    return Found(
        [(question.that, *said(answer(question, found))) for question in study.decide],
        RULE.format(metric=study.metric),
        [how.compared, "runs", *COLUMNS.values()],
        [[value, len(group), *(_spread(column[value]) for column in by_column)] for value, group in groups.items()],
        [to / FIGURE],
        notes=notes,
    )


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    found = statistic(values, len(values))
    return f"{found.mean:.2f}" + ("" if found.deviation is None else f" ± {found.deviation:.2f}") + " %"


def _write_table(path: Path, grid: Mapping[str, Sequence[object]], runs: Sequence[tuple[Cell, RunRecord]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *grid, "status", *COLUMNS])
    for cell, run in runs:
        writer.writerow([run.source, *cell.values(), run.status, *(run.last.get(name) for name in COLUMNS)])
    write_atomically(path, text.getvalue())


def said(one: Answer | None) -> tuple[str, str]:
    """Return a verdict and its numbers in words."""
    if one is None:
        return "not decided", "it needs two finished runs of each"
    more = f"; some {one.seeds} seeds of each would decide, if they spread alike" if one.seeds else ""
    return one.verdict, f"{one.difference:+.2f} points, 95 % interval {one.low:+.2f} to {one.high:+.2f}{more}"


def cells_of(grid: Mapping[str, Sequence[object]]) -> list[Cell]:
    """Return every combination of a grid's values, the last option's changing first."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def write_page(study: Study, name: str, scale: str, command: str, found: Found, to: Path) -> None:
    """Write the page, which needs no other file.

    Args:
        study: whose.
        name: what it is called.
        scale: at which scale.
        command: what made it.
        found: what came out.
        to: the study's folder.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(loader=PackageLoader("reslightning", "compare"), autoescape=True, undefined=StrictUndefined)
    figures = [(path.stem, base64.b64encode(path.read_bytes()).decode()) for path in found.figures]
    page = pages.get_template("study.html.j2").render(
        study=study,
        name=name,
        scale=scale,
        options=f"{'fit' if study.metric else 'analyze'} {study.scales[scale].options}",
        found=found,
        figures=figures,
        command=command,
    )
    write_atomically(to / PAGE, page)
