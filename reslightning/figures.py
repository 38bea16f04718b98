"""Curves of runs as in the paper's Figures 4 and 6: training error thin, validation error bold; without torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reslightning.comparison import Group, Part
from reslightning.errors import UserError
from reslightning.files import write_atomically
from reslightning.runs import RunRecord

SUFFIXES = (".png", ".svg", ".pdf")
AXES = {"epoch": "epoch", "iterations": "iteration", "samples": "samples seen"}
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


def curves(parts: Sequence[Part], over: str) -> list[Curve]:
    """Return a training and a validation curve of every run or group: the mean, with its range.

    Args:
        parts: the tables' groups; runs of two tables never share a curve.
        over: epoch, iterations or samples.
    """
    found: list[Curve] = []
    for number, (title, group) in enumerate((title, group) for title, groups in parts for group in groups):
        label = f"{group.label} ({title})" if len(parts) > 1 else group.label
        look = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
        for split in ("train", "val"):
            if points := _points(group, f"{split}/top1", over):
                errors = list(points.values())
                mean, low, high = [statistics.fmean(e) for e in errors], list(map(min, errors)), list(map(max, errors))
                found.append(Curve(label, split, list(points), mean, low, high, *look))
    return found


def _points(group: Group, name: str, over: str) -> dict[float, list[float]]:
    """Return the errors of a group's runs by their places, as far as every run has them, in order."""
    points: dict[float, list[float]] = {}
    for run in group.runs:
        for row in run.history:
            place = _place(run, row, over)
            if place is not None and math.isfinite(row.get(name, math.nan)):
                points.setdefault(place, []).append(100 * (1 - row[name]))
    # A mean over fewer runs than the group has would jump where one of them ends.
    return {place: errors for place, errors in sorted(points.items()) if len(errors) == len(group.runs)}


def _place(run: RunRecord, row: dict[str, float], over: str) -> float | None:
    if over == "epoch":
        return row["epoch"]
    if over == "iterations" or "samples" in row:
        return row.get({"iterations": "step"}.get(over, over))
    batch = (run.summary.get("options") or {}).get("data.batch_size")
    return row["step"] * batch if isinstance(batch, int) and "step" in row else None


def plot(lines: Sequence[Curve], path: Path, *, log: bool, over: str) -> None:
    """Write a figure of curves.

    Raises:
        UserError: the file's kind is unknown, it cannot be written, or there is no curve.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"--plot {path} is no picture; allowed: {', '.join(SUFFIXES)}")
    if not lines:
        raise UserError("nothing to plot: no run has finished an epoch")
    import io

    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    validated = {line.label for line in lines if line.split == "val"}
    for line in lines:
        bold = line.split == "val"
        name = line.label if bold or line.label not in validated else None
        axes.plot(line.x, line.y, color=line.colour, ls=line.style, linewidth=1.8 if bold else 0.7, label=name)
        if line.low != line.high:
            axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=AXES[over], ylabel="top-1 error (%)", yscale="log" if log else "linear")
    axes.grid(alpha=0.3)
    axes.legend(title="thin: training, bold: validation", fontsize="small", title_fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    pyplot.close(figure)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
