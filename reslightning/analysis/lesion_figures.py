"""Figures of lesions: error over the block that is removed, over how many, and over the order; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from reslightning.compare.figures import COLOURS, wrapped

if TYPE_CHECKING:
    from reslightning.analysis.lesions import Lesion

MARGIN = 3.0  # percent
POINTS: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 4, "markerfacecolor": "none"}
MEANS: dict[str, Any] = {"marker": "D", "color": "black", "linewidth": 1.2, "markersize": 4, "capsize": 3}


class Lesioned(NamedTuple):
    """A network and what lesions do to it.

    Attributes:
        label: what it is called, and on which images.
        blocks: the names of all its blocks, from the input on.
        lesions: none first, with errors in percent.
    """

    label: str
    blocks: Sequence[str]
    lesions: Sequence[Lesion]

    @property
    def whole(self) -> float:
        """The error without any lesion, percent."""
        return self.lesions[0].error

    def of(self, kind: str) -> list[Lesion]:
        """Return the lesions of a kind."""
        return [lesion for lesion in self.lesions if lesion.kind == kind]

    def counts(self, kind: str) -> dict[int, list[Lesion]]:
        """Return the lesions of a kind by how many blocks are removed, or pairs swapped, in ascending order."""
        found: dict[int, list[Lesion]] = {}
        for lesion in self.of(kind):
            found.setdefault(lesion.number, []).append(lesion)
        return found

    @property
    def skipped(self) -> list[str]:
        """The names of the blocks that are not removed."""
        alone = {name for lesion in self.of("block") for name in lesion.blocks}
        return [name for name in self.blocks if name not in alone]


def mean_and_spread(errors: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation, of one alone 0."""
    return fmean(errors), stdev(errors) if len(errors) > 1 else 0.0


def draw_lesions(found: Lesioned) -> Any:
    """Return matplotlib's figure of three panels: errors by block, by how many are removed, and by the order."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(3, figsize=(7, 9), layout="constrained")
    _by_block(panels[0], found)
    _by_number(panels[1], found)
    _by_order(panels[2], found)
    for axes in panels:
        line = axes.axhline(found.whole, color="black", linestyle="dashed", linewidth=1, label="no lesion", zorder=1)
        axes.set_ylabel("top-1 error (%)")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -MARGIN), min(high, 100 + MARGIN))  # so that an error of 0 is seen
        axes.grid(alpha=0.3)
    handles, names = _legend(panels, line)
    figure.suptitle(wrapped(found.label, 100), fontsize="small")
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _legend(panels: Sequence[Any], line: Any) -> tuple[list[Any], list[str]]:
    named = {line.get_label(): line}
    for axes in panels:
        handles, names = axes.get_legend_handles_labels()
        named = dict(zip(names, handles, strict=True)) | named
    return list(named.values()), list(named)


def _by_block(axes: Any, found: Lesioned) -> None:
    from matplotlib import ticker

    places = {name: place for place, name in enumerate(found.blocks, start=1)}
    single = found.of("block")
    axes.vlines([places[one.blocks[0]] for one in single], found.whole, [one.error for one in single], "#999999", lw=1)
    look = POINTS | {"color": COLOURS[0], "markerfacecolor": COLOURS[0]}
    axes.plot([places[one.blocks[0]] for one in single], [one.error for one in single], **look, label="block removed")
    for number, name in enumerate(found.skipped):
        label = "block changes the shape, and is not removed" if number == 0 else None
        axes.axvline(places[name], color="#999999", linestyle="dotted", linewidth=1.5, label=label, zorder=0)
    axes.set_xlim(0.5, len(places) + 0.5)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel("block that is removed, from the input on")


def _by_number(axes: Any, found: Lesioned) -> None:
    from matplotlib import ticker

    counts = found.counts("removed")
    drawn = [(number, one.error) for number, lesions in counts.items() for one in lesions]
    axes.plot(*zip(*drawn, strict=True), **POINTS, color=COLOURS[0], label="drawn at random")
    means, spreads = zip(*(mean_and_spread([one.error for one in each]) for each in counts.values()), strict=True)
    axes.errorbar([*counts], means, spreads, **MEANS, label="their mean ± standard deviation")
    axes.set_xscale("log", base=2)
    axes.set_xlim(2**-0.5, max(counts) * 2**0.5)
    axes.xaxis.set_major_locator(ticker.FixedLocator([*counts]))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:.0f}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel(f"blocks removed, of {len(found.of('block'))} that can be")


def _by_order(axes: Any, found: Lesioned) -> None:
    swapped = found.of("swapped")
    taus = [one.tau for one in swapped]
    axes.plot(taus, [one.error for one in swapped], **POINTS, color=COLOURS[0])
    if not swapped:
        axes.text(0.5, 0.75, "no two blocks of a stage can be swapped", ha="center", transform=axes.transAxes)
    least = min(taus, default=0.0)
    axes.set_xlim(1 + (1 - least) / 20, least - (1 - least) / 20)
    axes.set_xlabel("Kendall's tau of the order of the blocks: 1 as trained, 0 without relation to it")
