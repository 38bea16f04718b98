"""Curves of runs as in the paper's Figures 4 and 6: training error thin, validation error bold; without torch."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reslightning.compare.columns import COLUMNS
from reslightning.compare.groups import Table, statistic
from reslightning.compare.labels import labels
from reslightning.errors import UserError
from reslightning.files import write_atomically
from reslightning.run.record import RunRecord
from reslightning.run.summary import error_percent

SUFFIXES = (".png", ".svg", ".pdf")
AXES = {"epoch": "epoch", "iterations": "iteration", "samples": "samples seen"}
WIDTH, HEIGHT = 7, 4.5  # inches of a figure without its legend
ROWS = 40  # of a legend's column
LEAST = 1e-9  # percent: where bands that reach 0 or less end on a logarithmic axis, far below what it shows
# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
# And what tells lines apart in grey.
STYLES = ("solid", "dashed", "dotted", "dashdot")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MARKED = 12  # of a curve's points
LEVEL = 1.1  # the width of a published value's line, in points


class Curve(NamedTuple):
    """One line of a figure: errors in percent, with the standard deviation over runs around their mean.

    A run or group has one look; ``runs`` is how many the mean is over; ``published`` is the error that was published of
    its validation's kind, None where none was.
    """

    label: str
    split: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    colour: str
    style: str
    marker: str
    runs: int
    published: float | None = None


def look(number: int) -> tuple[str, str, str]:
    """Return colour, dash and marker of a figure's line, the first of which has number 0; 32 differ, in grey, too."""
    turns = number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], STYLES[(number + turns) % len(STYLES)], MARKERS[number % len(MARKERS)]


def curves(tables: Sequence[Table], over: str) -> tuple[list[Curve], list[str]]:
    """Return a training and a validation curve of every run or group, and where a group's end early, in words.

    A group's curve is its mean with its deviation, as in its table.

    Args:
        tables: whose rows are drawn; runs of two tables never share a curve.
        over: epoch, iterations or samples.
    """
    found: list[Curve] = []
    notes: list[str] = []
    groups = [group for table in tables for group in table.groups]
    for number, (label, group) in enumerate(zip(labels(tables), groups, strict=True)):
        count = len(group.runs)
        for split in ("train", "val"):
            lines = [points for run in group.runs if (points := _points(run, f"{split}/top1", over))]
            # A mean over fewer runs than the group has would jump where one of them ends.
            shared = sorted(set(lines[0]).intersection(*lines)) if lines else []
            if split == "val" and (len(lines) < count or any(len(line) > len(shared) for line in lines)) and count > 1:
                end = f"ends at {over} {shared[-1]:g}" if shared else "is missing"
                notes.append(f"{label}: the curve of {len(lines)} of its {count} runs {end}, as the shortest of them")
            if shared:
                errors = {place: [line[place] for line in lines] for place in shared}
                known = group.value(COLUMNS["published"]) if split == "val" else None
                published = known if isinstance(known, float) else None
                found.append(_curve(label, split, errors, look(number))._replace(published=published))
    return found, notes


def _curve(label: str, split: str, errors: Mapping[float, list[float]], looks: tuple[str, str, str]) -> Curve:
    """Return the curve of the errors that runs have at each place."""
    found = [statistic(values, len(values)) for values in errors.values()]
    low = [each.mean - (each.deviation or 0.0) for each in found]
    high = [each.mean + (each.deviation or 0.0) for each in found]
    return Curve(label, split, [*errors], [each.mean for each in found], low, high, *looks, found[0].n)


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


def legend(lines: Sequence[Curve]) -> list[str]:
    """Return what lines, bands and levels mean."""
    counts = sorted({line.runs for line in lines if line.runs > 1})
    over = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else ""
    band = [f"band: ± standard deviation over {over} runs"] if counts else []
    level = ["level: published"] if any(line.published is not None for line in lines) else []
    return ["thin: training", "bold: validation", *band, *level]


def check_suffix(path: Path) -> None:
    """Raise UserError for a kind of picture that is not drawn."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--plot {path} is no picture; allowed: {', '.join(SUFFIXES)}")


def plot(lines: Sequence[Curve], path: Path, *, log: bool, over: str, title: str = "") -> None:
    """Write a figure of curves, whose names stand beside it.

    Raises:
        UserError: the file's kind is unknown, it cannot be written, or there is no curve.
    """
    check_suffix(path)
    if not lines:
        raise UserError("nothing to plot: no run has finished an epoch")
    import matplotlib as mpl

    mpl.use("agg")
    write_figure(draw(lines, log=log, over=over, title=title), path)


def write_figure(figure: Any, path: Path) -> None:
    """Write matplotlib's figure, of the kind that the file's name says, and close it.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib import pyplot

    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    pyplot.close(figure)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def draw(lines: Sequence[Curve], *, log: bool, over: str, title: str = "") -> Any:
    """Return matplotlib's figure of curves, which grows by the legend beside its axes."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(layout="constrained")
    _draw(axes, lines, log=log)
    _scale(axes, lines, log=log, over=over)
    axes.set_title(wrapped(title, 80), fontsize="small")
    names = figure.legend(
        title="\n".join(legend(lines)),
        loc="outside right upper",
        fontsize="small",
        title_fontsize="small",
        alignment="left",
        ncols=math.ceil(sum(wrapped(label).count("\n") + 1 for label in {line.label for line in lines}) / ROWS),
    )
    box = names.get_window_extent()
    figure.set_size_inches(WIDTH + box.width / figure.dpi, max(HEIGHT, box.height / figure.dpi + 0.3))
    return figure


def _draw(axes: Any, lines: Sequence[Curve], *, log: bool) -> None:
    """Draw curves with their bands, each run's or group's name once."""
    validated = {line.label for line in lines if line.split == "val"}
    least = LEAST if log else -math.inf
    for line in lines:
        bold = line.split == "val"
        drawn: dict[str, Any] = {"color": line.colour, "ls": line.style, "linewidth": 1.8 if bold else 0.7}
        if bold or line.label not in validated:
            every = -(-len(line.x) // MARKED)
            drawn |= {"label": wrapped(line.label), "marker": line.marker, "markersize": 4.5, "markevery": every}
        axes.plot(line.x, line.y, **drawn)
        if line.published is not None:
            axes.axhline(line.published, color=line.colour, ls=line.style, linewidth=LEVEL)
        if line.low != line.high:
            low = [max(value, least) for value in line.low]
            axes.fill_between(line.x, low, line.high, color=line.colour, alpha=0.15, linewidth=0)


def _scale(axes: Any, lines: Sequence[Curve], *, log: bool, over: str) -> None:
    """Label the axes, the vertical one from no less than 0, or on a logarithmic one from below the lowest curve."""
    from matplotlib import ticker

    axes.set(xlabel=AXES[over], ylabel="top-1 error (%)")
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    if not log:
        axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
        return
    axes.set_yscale("log", nonpositive="mask")  # no line down to an error of 0
    levels = [line.published for line in lines if line.published is not None]
    low = min((y for y in (*levels, *(y for line in lines for y in line.y)) if y > 0), default=1) / 2
    high = max(2 * low, *(y for line in lines for y in line.high))
    axes.set_ylim(low, 1.1 * high)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)) if high > 10 * low else ticker.AutoLocator())
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def wrapped(text: str, letters: int = 40) -> str:
    """Return words in lines, without what matplotlib takes for mathematics, or for a name that is not shown."""
    lines = textwrap.fill(text, letters).replace("$", r"\$")
    return " " + lines if lines.startswith("_") else lines
