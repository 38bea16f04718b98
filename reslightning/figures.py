"""Curves of runs as in the paper's Figures 4 and 6: training error thin, validation error bold; without torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reslightning.comparison import Group, grouped
from reslightning.errors import UserError
from reslightning.files import write_atomically
from reslightning.runs import RunRecord

SUFFIXES = (".png", ".svg", ".pdf")
AXES = {"epoch": "epoch", "iterations": "iteration", "samples": "samples seen"}
# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")


class Curve(NamedTuple):
    """One line of a figure: errors in percent, with the range over seeds."""

    label: str
    split: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def curves(runs: Sequence[RunRecord], by: str | None, over: str) -> list[Curve]:
    """Return a training and a validation curve of every run, or of every group: the mean, with its range.

    Args:
        runs: the runs.
        by: what groups them, None for each by itself.
        over: epoch, iterations or samples.
    """
    keys = {key for run in runs for key in run.summary.get("options") or {}}
    groups = grouped(runs, by, keys) if by else [Group([run], run.name) for run in runs]
    found = []
    for group in groups:
        for split in ("train", "val"):
            points: dict[float, list[float]] = {}
            for run in group.runs:
                for row in run.history:
                    if f"{split}/top1" in row:
                        points.setdefault(_place(run, row, over), []).append(100 * (1 - row[f"{split}/top1"]))
            # A mean over fewer runs than the group has would jump where one of them ends.
            whole = {place: errors for place, errors in sorted(points.items()) if len(errors) == len(group.runs)}
            if whole:
                errors = list(whole.values())
                mean, low, high = [statistics.fmean(e) for e in errors], list(map(min, errors)), list(map(max, errors))
                found.append(Curve(group.label, split, list(whole), mean, low, high))
    return found


def _place(run: RunRecord, row: dict[str, float], over: str) -> float:
    if over == "epoch":
        return row["epoch"]
    batch = (run.summary.get("options") or {}).get("data.batch_size", 1)
    return row.get("step", 0.0) * (batch if over == "samples" else 1)


def plot(runs: Sequence[RunRecord], path: Path, *, by: str | None, log: bool, over: str) -> None:
    """Write a figure of the runs' errors.

    Raises:
        UserError: the file's kind is unknown, it cannot be written, or no run has a finished epoch.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"--plot {path} is no picture; allowed: {', '.join(SUFFIXES)}")
    lines = curves(runs, by, over)
    if not lines:
        raise UserError("nothing to plot: no run has finished an epoch")
    import io

    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    labels = list(dict.fromkeys(line.label for line in lines))
    for line in lines:
        colour = COLOURS[labels.index(line.label) % len(COLOURS)]
        bold = line.split == "val"
        name = line.label if bold or not any(o.split == "val" and o.label == line.label for o in lines) else None
        axes.plot(line.x, line.y, color=colour, linewidth=1.8 if bold else 0.7, label=name)
        if line.low != line.high:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
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
