"""Tables of runs as text, Markdown, CSV, JSON or LaTeX; without torch."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from tabulate import tabulate

from reslightning.comparison import Group, Statistic, Value

FORMATS = ("table", "markdown", "csv", "json", "latex")
PERCENT = {"top1", "top5", "last_top1", "best_top1", "train_top1", "published", "difference"}
TITLES = {
    "top1": "top-1 error",
    "top5": "top-5 error",
    "last_top1": "last top-1",
    "best_top1": "best top-1",
    "train_top1": "train top-1",
    "images_per_second": "images/s",
    "seconds": "time",
    "gpu_hours": "GPU-hours",
    "device_hours": "device-hours",
    "flops": "FLOPs",
}
Part = tuple[str, list[Group]]


def render(parts: Sequence[Part], names: Sequence[str], sort: str, style: str, by: str | None = None) -> str:
    """Return tables of groups, one for each part, ordered.

    Args:
        parts: title and rows of each table; a title stands above where there are several.
        names: the columns.
        sort: the column that rows are ordered by, with - in front for the largest first.
        style: one of FORMATS.
        by: what rows are grouped by, if they are.
    """
    ordered = [(title, order(groups, sort)) for title, groups in parts]
    columns = [*([by, "n"] if by else []), *(name for name in names if not by or name not in ("run", by))]
    if style == "json":
        records = [
            {"section": title} | {name: _plain(value_of(group, name, by)) for name in columns}
            for title, groups in ordered
            for group in groups
        ]
        return json.dumps(records, indent=2)
    if style == "csv":
        return _csv(ordered, columns, by)
    texts = []
    for title, groups in ordered:
        rows = [[text(value_of(group, name, by), name, style) for name in columns] for group in groups]
        kind = {"table": "simple", "markdown": "github", "latex": "latex_booktabs"}[style]
        heads = [TITLES.get(name, name) for name in columns]
        table = tabulate(rows, heads, tablefmt=kind, disable_numparse=True, colalign=_alignment(ordered, columns, by))
        head = {"table": f"{title}\n\n", "markdown": f"### {title}\n\n", "latex": f"% {title}\n"}[style]
        notes = [f"{group.label}: its runs differ in {', '.join(group.differs)}" for group in groups if group.differs]
        texts.append(head + table + ("\n" + "\n".join(notes) if notes and style != "latex" else ""))
    return "\n\n".join(texts)


def order(groups: list[Group], sort: str) -> list[Group]:
    """Return groups in a column's order; what has no value comes last either way."""
    name, largest_first = sort.removeprefix("-"), sort.startswith("-")

    def key(group: Group) -> tuple[bool, Any]:
        value = value_of(group, name, None)
        value = value.mean if isinstance(value, Statistic) else value
        absent = value is None or (isinstance(value, float) and math.isnan(value))
        if isinstance(value, int | float) and not absent:
            return False, (0, -value if largest_first else value, "")
        return absent, (1, 0, str(value))

    return sorted(groups, key=key, reverse=False)


def value_of(group: Group, name: str, by: str | None) -> Value | Statistic:
    """Return a cell's value: what rows are grouped by, how many there are, or a column."""
    if name == "n" and by:
        return len(group.runs)
    if name == by:
        return group.label
    keys = {key for run in group.runs for key in run.summary.get("options") or {}} | {name}
    return group.value(name, keys)


def text(value: Value | Statistic, name: str, style: str = "table") -> str:
    """Return a value as people read it."""
    if isinstance(value, Statistic):
        if value.deviation is None or value.interval is None:
            return text(value.mean, name, style)
        parts = [text(number, name, style) for number in (value.mean, value.deviation)]
        half = text(value.interval, name, style).lstrip("+")
        return f"{parts[0]} ± {parts[1].lstrip('+')} (95 %: ± {half})"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if name in PERCENT and isinstance(value, int | float):
        return f"{value:+.2f}" if name == "difference" else f"{value:.2f}"
    if name in ("seconds", "heartbeat") and isinstance(value, int | float):
        return str(timedelta(seconds=round(value)))
    if name in ("parameters", "flops") and isinstance(value, int | float):
        return _short(value)
    if name == "images_per_second" and isinstance(value, int | float):
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:g}"


def _alignment(parts: Sequence[Part], columns: Sequence[str], by: str | None) -> list[str]:
    def numeric(name: str) -> bool:
        values = [value_of(group, name, by) for _, groups in parts for group in groups]
        return all(isinstance(value, int | float | Statistic | None) for value in values)

    return ["right" if numeric(name) else "left" for name in columns]


def _plain(value: Value | Statistic) -> Any:
    if isinstance(value, Statistic):
        return {"mean": value.mean, "std": value.deviation, "interval95": value.interval, "n": value.n}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(parts: Sequence[Part], columns: Sequence[str], by: str | None) -> str:
    """Return full-precision rows; a statistic takes three cells."""
    spread = [
        name
        for name in columns
        if any(isinstance(value_of(group, name, by), Statistic) for _, groups in parts for group in groups)
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [[name, f"{name}_std", f"{name}_interval95"] if name in spread else [name] for name in columns]
    writer.writerow(["section", *(head for part in heads for head in part)])
    for title, groups in parts:
        for group in groups:
            cells: list[Any] = [title]
            for name in columns:
                value = value_of(group, name, by)
                if name in spread:
                    single = Statistic(value, None, None, 1) if isinstance(value, int | float) else value
                    found = single if isinstance(single, Statistic) else Statistic(math.nan, None, None, 0)
                    cells += [found.mean, found.deviation, found.interval]
                else:
                    cells.append(_plain(value))
            writer.writerow(["" if cell is None or cell != cell else cell for cell in cells])
    return buffer.getvalue().rstrip("\n")
