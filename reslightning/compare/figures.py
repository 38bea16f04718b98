"""Curves of runs as in the paper's Figures 4 and 6: training error thin, validation error bold; without torch."""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reslightning.compare.groups import Table
from reslightning.errors import UserError
from reslightning.files import write_atomically
from reslightning.run.record import RunRecord
from reslightning.run.summary import error_percent

SUFFIXES = (".png", ".svg", ".pdf")
AXES = {"epoch": "epoch", "iterations": "iteration", "samples": "samples seen"}
MOST_INSIDE = 6  # names within the figure; more stand beside it
# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
STYLES = ("solid", "dashed", "dotted", "dashdot")  # for the ninth line and on


class Curve(NamedTuple):
    """One line of a figure: errors in percent, with the range over seeds; a run or group has one look."""

    label: str
    split: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    colour: str
    style: str


def curves(tables: Sequence[Table], over: str) -> tuple[list[Curve], list[str]]:
    """Return a training and a validation curve of every run or group, and where a group's end early, in words.

    A group's curve is its mean, with its range.

    Args:
        tables: whose rows are drawn; runs of two tables never share a curve.
        over: epoch, iterations or samples.
    """
    found: list[Curve] = []
    notes: list[str] = []
    titles = _short([table.title for table in tables])
    rows = [(title, group) for title, table in zip(titles, tables, strict=True) for group in table.groups]
    for number, (title, group) in enumerate(rows):
        label, count = f"{group.label} ({title})" if title else group.label, len(group.runs)
        look = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
        for split in ("train", "val"):
            lines = [points for run in group.runs if (points := _points(run, f"{split}/top1", over))]
            # A mean over fewer runs than the group has would jump where one of them ends.
            shared = sorted(set(lines[0]).intersection(*lines)) if lines else []
            if split == "val" and (len(lines) < count or any(len(line) > len(shared) for line in lines)) and count > 1:
                end = f"ends at {over} {shared[-1]:g}" if shared else "is missing"
                notes.append(f"{label}: the curve of {len(lines)} of its {count} runs {end}, as the shortest of them")
            if shared:
                errors = [[line[place] for line in lines] for place in shared]
                mean, low, high = [statistics.fmean(e) for e in errors], list(map(min, errors)), list(map(max, errors))
                found.append(Curve(label, split, shared, mean, low, high, *look))
    return found, notes


def _short(titles: Sequence[str]) -> list[str]:
    """Return what tells titles apart, of one alone nothing."""
    words = [re.split(r", | (?=\()", title) for title in titles]
    return [", ".join(word for word in own if not all(word in other for other in words)) for own in words]


def _points(run: RunRecord, name: str, over: str) -> dict[float, float]:
    """Return a run's errors by their places, in order."""
    places = ((_place(run, row, over), row.get(name, math.nan)) for row in run.history)
    return {place: error_percent(value) for place, value in places if place is not None and math.isfinite(value)}


def _place(run: RunRecord, row: dict[str, float], over: str) -> float | None:
    if over == "epoch":
        return row["epoch"]
    if over == "iterations" or "samples" in row:
        return row.get({"iterations": "step"}.get(over, over))
    batch = (run.summary.get("options") or {}).get("data.batch_size")
    return row["step"] * batch if isinstance(batch, int) and "step" in row else None


def legend(lines: Sequence[Curve]) -> str:
    """Return what lines and areas mean."""
    band = ", area: range over runs" if any(line.low != line.high for line in lines) else ""
    return f"thin: training, bold: validation{band}"


def check_suffix(path: Path) -> None:
    """Raise UserError for a kind of picture that is not drawn."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--plot {path} is no picture; allowed: {', '.join(SUFFIXES)}")


def plot(lines: Sequence[Curve], path: Path, *, log: bool, over: str) -> None:
    """Write a figure of curves.

    Raises:
        UserError: the file's kind is unknown, it cannot be written, or there is no curve.
    """
    check_suffix(path)
    if not lines:
        raise UserError("nothing to plot: no run has finished an epoch")
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    labels = {line.label for line in lines}
    beside = len(labels) > MOST_INSIDE
    size = (7 + 0.08 * max(map(len, labels)), max(4.5, 0.2 * len(labels))) if beside else (7, 4.5)
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    _draw(axes, lines)
    _scale(axes, log=log, over=over)
    names = {"title": legend(lines), "fontsize": "small", "title_fontsize": "small"}
    if beside:
        figure.legend(loc="outside right upper", **names)
    else:
        axes.legend(**names)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    pyplot.close(figure)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _draw(axes: Any, lines: Sequence[Curve]) -> None:
    """Draw curves with their ranges, each run's or group's name once."""
    validated = {line.label for line in lines if line.split == "val"}
    for line in lines:
        bold = line.split == "val"
        name = _literal(line.label) if bold or line.label not in validated else None
        axes.plot(line.x, line.y, color=line.colour, ls=line.style, linewidth=1.8 if bold else 0.7, label=name)
        if line.low != line.high:
            axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.15, linewidth=0)


def _scale(axes: Any, *, log: bool, over: str) -> None:
    from matplotlib import ticker

    axes.set(xlabel=AXES[over], ylabel="top-1 error (%)")
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    if log:
        axes.set_yscale("log", nonpositive="mask")  # no line down to an error of 0
        axes.yaxis.set_major_formatter(ticker.ScalarFormatter())
        axes.yaxis.set_minor_formatter(ticker.ScalarFormatter())


def _literal(label: str) -> str:
    """Return a label without what matplotlib takes for mathematics, or for a name that is not shown."""
    return label.replace("$", r"\$") if not label.startswith("_") else " " + label.replace("$", r"\$")
