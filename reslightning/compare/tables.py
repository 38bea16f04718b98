"""Tables of runs as text, Markdown, CSV, JSON or LaTeX; without torch."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from reslightning.compare.columns import COLUMNS, Value
from reslightning.compare.groups import COSTS, Group, Part, Statistic

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
    "of": "epoch used",
}


def render(parts: Sequence[Part], columns: Sequence[str], style: str) -> str:
    """Return tables of groups, one for each part.

    Args:
        parts: title and rows of each table.
        columns: the columns.
        style: one of FORMATS.
    """
    if style == "json":
        records = [
            {"section": title} | {name: _plain(value_of(group, name)) for name in columns}
            for title, groups in parts
            for group in groups
        ]
        return json.dumps(records, indent=2)
    if style == "csv":
        return _csv(parts, columns)
    kind = {"table": "simple", "markdown": "github", "latex": "latex_booktabs"}[style]
    heads, sides = [TITLES.get(name, name) for name in columns], _alignment(parts, columns)
    texts = []
    for title, groups in parts:
        rows = [[_cell(text(value_of(group, name), name), style) for name in columns] for group in groups]
        table = tabulate(rows, heads, tablefmt=kind, disable_numparse=True, colalign=sides)
        head = {"table": f"{title}\n\n", "markdown": f"### {title}\n\n", "latex": f"% {title}\n"}[style]
        notes = [("% " if style == "latex" else "") + note for group in groups for note in group.notes]
        gap = [""] if notes and style == "markdown" else []
        texts.append("\n".join([head + table, *gap, *notes]))
    return "\n\n".join(texts)


def _cell(words: str, style: str) -> str:
    """Return words that break no row of a table."""
    words = " ".join(words.split())
    return words.replace("|", "\\|") if style == "markdown" else words


def headed(names: Sequence[str], by: Sequence[str]) -> list[str]:
    """Return a table's columns: first what its rows are grouped by, if they are, and how many runs each has."""
    return [*by, "n", *(name for name in names if name not in ("run", *by))] if by else list(names)


def order(groups: Sequence[Group], sort: str) -> list[Group]:
    """Return groups in a column's order, numbers in words by their value; what has no value is last either way."""
    name = sort.removeprefix("-")

    def key(group: Group) -> tuple[Any, ...] | None:
        value = value_of(group, name)
        value = value.mean if isinstance(value, Statistic) else value
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, int | float):
            return (value,)
        # A split leaves the numbers at odd places: resnet20 before resnet110, epoch 9 before 10.
        return (math.inf, *(int(p) if k % 2 else p for k, p in enumerate(re.split(r"(\d+)", value.lower()))))

    keys = [(key(group), group) for group in groups]
    present = sorted((pair for pair in keys if pair[0]), key=lambda pair: pair[0] or (), reverse=sort != name)
    return [group for _, group in present] + [group for found, group in keys if found is None]


def value_of(group: Group, name: str) -> Value | Statistic:
    """Return a cell's value."""
    return group.value(name, {key for run in group.runs for key in run.summary.get("options") or {}} | {name})


def text(value: Value | Statistic, name: str) -> str:
    """Return a value as people read it."""
    if isinstance(value, Statistic):
        words = text(value.mean, name)
        if value.deviation is not None and value.interval is not None:
            spread, half = (text(number, name).lstrip("+") for number in (value.deviation, value.interval))
            words += f" ± {spread}" + (f" (95 %: ± {half})" if name not in COSTS else "")
        return words if value.n == value.runs else f"{words} (n={value.n} of {value.runs})"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) or (isinstance(value, float) and math.isinf(value)):
        return str(value)
    if name in PERCENT:
        return f"{value:+.2f}" if name == "difference" else f"{value:.2f}"
    if name in ("seconds", "heartbeat"):
        return _duration(value)
    if name in ("parameters", "flops"):
        return _short(value)
    if name == "images_per_second":
        return f"{value:,.0f}"
    # Options stand as they were given: two that differ must not look the same.
    return f"{value:.4g}" if isinstance(value, float) and name in COLUMNS else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours < 100 else f"{hours // 24} days"


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:g}"


def _alignment(parts: Sequence[Part], columns: Sequence[str]) -> list[str]:
    def numeric(name: str) -> bool:
        values = [value_of(group, name) for _, groups in parts for group in groups]
        return all(isinstance(value, int | float | Statistic | None) for value in values)

    return ["right" if numeric(name) else "left" for name in columns]


def _plain(value: Value | Statistic) -> Any:
    if isinstance(value, Statistic):
        return {
            "mean": value.mean,
            "std": value.deviation,
            "interval95": value.interval,
            "n": value.n,
            "of": value.runs,
        }
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(parts: Sequence[Part], columns: Sequence[str]) -> str:
    """Return full-precision rows; a statistic takes four cells."""
    rows = [(title, [value_of(group, name) for name in columns]) for title, groups in parts for group in groups]
    spread = [any(isinstance(values[k], Statistic) for _, values in rows) for k in range(len(columns))]
    parts_of = ("", "_std", "_interval95", "_n")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [[name + part for part in parts_of[: 4 if wide else 1]] for name, wide in zip(columns, spread, strict=True)]
    writer.writerow(["section", *(head for part in heads for head in part)])
    for title, values in rows:
        cells: list[Any] = [title]
        for value, wide in zip(values, spread, strict=True):
            if isinstance(value, Statistic):
                cells += [value.mean, value.deviation, value.interval, value.n]
            else:
                plain = _plain(value)
                cells += [plain, *([None, None, int(plain is not None)] if wide else [])]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return buffer.getvalue().rstrip("\n")
