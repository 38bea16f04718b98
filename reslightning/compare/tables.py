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

from reslightning.compare.columns import RUNS, Column, Over, Value
from reslightning.compare.groups import Group, Statistic, Table
from reslightning.files import finite

FORMATS = ("table", "markdown", "csv", "json", "latex")


def render(tables: Sequence[Table], columns: Sequence[Column], style: str) -> str:
    """Return tables as text.

    Args:
        tables: title and rows of each.
        columns: the columns.
        style: one of FORMATS.
    """
    if style == "json":
        records = [
            {"section": title} | {column.name: _json(group.value(column)) for column in columns}
            for title, groups in tables
            for group in groups
        ]
        return json.dumps(records, indent=2)
    if style == "csv":
        return _csv(tables, columns)
    kind = {"table": "simple", "markdown": "github", "latex": "latex_booktabs"}[style]
    heads, sides = [column.heading for column in columns], _alignment(tables, columns)
    texts = []
    for title, groups in tables:
        rows = [[_cell(text(group.value(column), column), style) for column in columns] for group in groups]
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


def headed(columns: Sequence[Column], by: Sequence[Column]) -> list[Column]:
    """Return a table's columns: first what its rows are grouped by, if they are, and how many runs each has."""
    names = {column.name for column in by}
    others = (column for column in columns if column.over is not Over.NAME and column.name not in names)
    return [*by, RUNS, *others] if by else list(columns)


def order(groups: Sequence[Group], column: Column, *, largest_first: bool = False) -> list[Group]:
    """Return groups in a column's order, numbers in words by their value; what has no value is last either way."""

    def key(group: Group) -> tuple[Any, ...] | None:
        value = group.value(column)
        value = value.mean if isinstance(value, Statistic) else value
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, int | float):
            return (value,)
        # A split leaves the numbers at odd places: resnet20 before resnet110, epoch 9 before 10.
        return (math.inf, *(int(p) if k % 2 else p for k, p in enumerate(re.split(r"(\d+)", value.lower()))))

    keys = [(key(group), group) for group in groups]
    present = sorted((pair for pair in keys if pair[0]), key=lambda pair: pair[0] or (), reverse=largest_first)
    return [group for _, group in present] + [group for found, group in keys if found is None]


def text(value: Value | Statistic, column: Column) -> str:
    """Return a column's value as people read it."""
    if isinstance(value, Statistic):
        words = text(value.mean, column)
        if value.deviation is not None and value.interval is not None:
            spread, half = (text(number, column).lstrip("+") for number in (value.deviation, value.interval))
            words += f" ± {spread}" + (f" (95 %: ± {half})" if column.over is Over.MEAN else "")
        return words if value.n == value.runs else f"{words} (n={value.n} of {value.runs})"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) or (isinstance(value, float) and math.isinf(value)):
        return str(value)
    return column.format(value)


def _alignment(tables: Sequence[Table], columns: Sequence[Column]) -> list[str]:
    def numeric(column: Column) -> bool:
        values = [group.value(column) for _, groups in tables for group in groups]
        return all(isinstance(value, int | float | Statistic | None) for value in values)

    return ["right" if numeric(column) else "left" for column in columns]


def _json(value: Value | Statistic) -> Any:
    if isinstance(value, Statistic):
        return {
            "mean": value.mean,
            "std": value.deviation,
            "interval95": value.interval,
            "n": value.n,
            "of": value.runs,
        }
    return finite(value)


def _csv(tables: Sequence[Table], columns: Sequence[Column]) -> str:
    """Return full-precision rows; a statistic takes four cells."""
    rows = [(title, [group.value(column) for column in columns]) for title, groups in tables for group in groups]
    spread = [any(isinstance(values[k], Statistic) for _, values in rows) for k in range(len(columns))]
    endings = ("", "_std", "_interval95", "_n")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = zip(columns, spread, strict=True)
    writer.writerow(["section", *(column.name + end for column, four in heads for end in endings[: 4 if four else 1])])
    for title, values in rows:
        cells: list[Any] = [title]
        for value, four in zip(values, spread, strict=True):
            if isinstance(value, Statistic):
                cells += [value.mean, value.deviation, value.interval, value.n]
            else:
                cell = finite(value)
                cells += [cell, *([None, None, int(cell is not None)] if four else [])]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return buffer.getvalue().rstrip("\n")
