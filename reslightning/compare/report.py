"""One self-contained page on runs: a table to sort and filter, curves, differences, confusion, worst images."""

from __future__ import annotations

import base64
import contextlib
import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from reslightning.compare.columns import COLUMNS, Column, Value, differing
from reslightning.compare.figures import AXES, Curve, legend
from reslightning.compare.groups import Group, Statistic, Table
from reslightning.compare.tables import order, text
from reslightning.errors import UserError
from reslightning.files import write_atomically
from reslightning.run import layout
from reslightning.run.record import RunRecord

LETTERS = 150  # of a legend's row
MOST_CLASSES = 30  # a confusion matrix with more is left to its file


def write_report(
    tables: Sequence[Table], lines: Sequence[Curve], path: Path, columns: Sequence[Column], over: str
) -> None:
    """Write the page.

    Args:
        tables: title and rows of each, in order.
        lines: the curves.
        path: the file.
        columns: the tables' columns.
        over: the curves' horizontal axis: epoch, iterations or samples.

    Raises:
        UserError: the file cannot be written.
    """
    pages = Environment(
        loader=PackageLoader("reslightning", "compare"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    scripts, curves = _curves(lines, over)
    runs = [run for table in tables for group in table.groups for run in group.runs]
    page = pages.get_template("report.html.j2").render(
        tables=tables,
        columns=columns,
        runs=runs,
        different=differing(runs),
        scripts=scripts,
        curves=curves,
        legend=", ".join(legend(lines)),
        evaluations=[found for table in tables if (found := _evaluation(table.groups))],
        text=text,
        number=_number,
        option=_option,
    )
    try:
        write_atomically(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _number(value: Value | Statistic) -> float | None:
    """Return what a cell is sorted by if that is a number."""
    value = value.mean if isinstance(value, Statistic) else value
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _option(run: RunRecord, name: str) -> str:
    options = run.summary.get("options") or {}
    return json.dumps(options[name]).strip('"') if name in options else ""


def _curves(lines: Sequence[Curve], over: str) -> tuple[str, str]:
    """Return the figure's scripts for the page's head, and its place; nothing without curves."""
    from bokeh.embed import components
    from bokeh.models import DataRange1d
    from bokeh.plotting import figure
    from bokeh.resources import Resources

    if not lines:
        return "", ""
    levels = [line.published for line in lines if line.published is not None]
    low, high = min(levels + [min(line.low) for line in lines]), max(max(line.high) for line in lines)
    plot = figure(
        y_range=DataRange1d(start=max(0, low - (high - low) / 20)),
        frame_height=420,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag="box_zoom",
        x_axis_label=AXES[over],
        y_axis_label="top-1 error (%)",
        output_backend="canvas",
    )
    plot.toolbar.logo = None
    for line in lines:
        if line.low != line.high:
            plot.varea(line.x, line.low, line.high, color=line.colour, alpha=0.15, legend_label=line.label)
        width = 2.2 if line.split == "val" else 0.8
        shown = plot.line(line.x, line.y, color=line.colour, line_width=width, legend_label=line.label)
        shown.glyph.line_dash = line.style
        if line.published is not None:
            ends = [line.x[0], line.x[-1]]
            level = plot.line(ends, [line.published] * 2, color=line.colour, line_width=1.2, legend_label=line.label)
            level.glyph.line_dash = line.style
    plot.legend.click_policy = "hide"
    plot.legend.label_text_font_size = "9pt"
    plot.legend.ncols = max(1, LETTERS // max(len(line.label) for line in lines))
    plot.legend.spacing = 12
    plot.legend.location = "left"
    plot.legend.stylesheets = [".bk-label { white-space: normal; overflow-wrap: anywhere; max-width: 1000px; }"]
    plot.add_layout(plot.legend[0], "below")
    script, place = components(plot)
    return Resources(mode="inline", components=["bokeh"]).render() + script, place


@dataclass
class Evaluation:
    """What a validation left in a run's directory.

    Attributes:
        run: the run's name.
        names: the classes.
        counts: each class, and how many of its images were taken for each of them.
        worst: a PNG of the worst images in base 64.
    """

    run: str
    names: Sequence[str] = ()
    counts: Sequence[tuple[str, list[int]]] = ()
    worst: str = ""


def _evaluation(groups: Sequence[Group]) -> Evaluation | None:
    """Return the confusion matrix and the worst images of the best run whose directory has them."""
    runs = [Group([run]) for group in groups for run in group.runs]
    for group in order(runs, COLUMNS["top1"]):
        (run,) = group.runs
        folder, found = Path(run.source) / layout.EVALUATIONS, Evaluation(run.name)
        with contextlib.suppress(OSError, ValueError, IndexError, csv.Error):  # absent or cut
            found.names, found.counts = _confusion(folder / layout.CONFUSION)
        with contextlib.suppress(OSError):
            found.worst = base64.b64encode((folder / layout.WORST).read_bytes()).decode()
        if found.counts or found.worst:
            return found
    return None


def _confusion(path: Path) -> tuple[list[str], list[tuple[str, list[int]]]]:
    """Return the classes and counts of a confusion matrix's file; none of a large one.

    Raises:
        OSError, ValueError, IndexError, csv.Error: it is absent or cut.
    """
    (_, *names), *rows = csv.reader(path.read_text().splitlines())
    if len(names) > MOST_CLASSES:
        return [], []
    counts = [(truth, [int(cell) for cell in cells]) for truth, *cells in rows]
    if {len(counts), *(len(cells) for _, cells in counts)} != {len(names)}:
        raise ValueError("it is cut")
    return names, counts
