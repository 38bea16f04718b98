"""Figures of responses, as the paper's Figure 7; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from reslightning.analysis.gradient_figures import looks
from reslightning.compare.figures import MARKED, wrapped

if TYPE_CHECKING:
    from reslightning.analysis.responses import Response


class Responding(NamedTuple):
    """One network's responses.

    Attributes:
        label: what it is called.
        arch: which network it is.
        run: its run directory.
        is_residual: whether it has shortcuts.
        version: v1, v1.5 or v2.
        depth: weighted layers.
        of: the images.
        layers: its 3x3 layers, from the input on.
    """

    label: str
    arch: str
    run: str
    is_residual: bool
    version: str
    depth: int
    of: str
    layers: Sequence[Response]

    @property
    def deviations(self) -> list[float]:
        """Those of its layers, from the input on."""
        return [layer.deviation for layer in self.layers]

    @property
    def mean(self) -> float:
        """Their mean over the layers."""
        return fmean(self.deviations)


def draw_responses(networks: Sequence[Responding], title: str) -> Any:
    """Return matplotlib's figure: standard deviations of responses by layer, and from the largest to the smallest."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot, ticker

    figure, (by_layer, by_size) = pyplot.subplots(2, figsize=(7, 6.5), layout="constrained")
    for number, one in enumerate(networks):
        places, step = [*range(1, len(one.layers) + 1)], -(-len(one.layers) // MARKED)
        by_layer.plot(places, one.deviations, label=wrapped(one.label), markevery=step, **looks(number))
        by_size.plot(places, sorted(one.deviations, reverse=True), markevery=step, **looks(number))
    by_layer.set_xlabel("3x3 layer, from the input on")
    by_size.set_xlabel("3x3 layer, from the largest response to the smallest")
    for axes in (by_layer, by_size):
        axes.set_ylabel("standard deviation of responses")
        axes.set_ylim(0, 1.08 * max(max(one.deviations) for one in networks))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    by_layer.set_title(wrapped(title, 90), fontsize="small")
    names = figure.legend(loc="outside right upper", fontsize="small", alignment="left")
    figure.set_size_inches(7 + names.get_window_extent().width / figure.dpi, 6.5)
    return figure
