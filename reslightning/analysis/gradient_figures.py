"""Figures of gradients over depth, and over depth and time; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from reslightning.compare.figures import MARKED, MARKERS, look

if TYPE_CHECKING:
    from reslightning.analysis.gradient_flow import Flow

SHOWN = 5  # steps of a training whose curves are drawn


class Measured(NamedTuple):
    """One network's gradients.

    Attributes:
        label: what it is called.
        flows: its blocks' numbers, from the input on.
        correlations: of gradients at neighbouring inputs, by the blocks' numbers from 1 on.
    """

    label: str
    flows: Sequence[Flow]
    correlations: Mapping[int, float]

    @property
    def ratio(self) -> float | None:
        """|dL/dz| at the first block over that at the last; None where no gradient comes to the last."""
        return self.flows[0].dz / self.flows[-1].dz if self.flows[-1].dz else None


def looks(number: int) -> dict[str, Any]:
    """Return how matplotlib is to draw a network's curve, the first of which has number 0."""
    colour, style, marker = look(number)
    return {"color": colour, "linestyle": style, "marker": marker, "markersize": 4, "linewidth": 1.5}


def draw_curves(measured: Sequence[Measured], title: str) -> Any:
    """Return matplotlib's figure: norms of dL/dz, logarithmic, and correlations at neighbouring inputs, over depth."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot, ticker

    figure, (norms, alike) = pyplot.subplots(2, sharex=True, figsize=(7, 6.5), layout="constrained")
    for number, one in enumerate(measured):
        drawn = looks(number)
        depth = [*range(1, len(one.flows) + 1)]
        norms.plot(depth, [flow.dz for flow in one.flows], label=one.label, markevery=-(-len(depth) // MARKED), **drawn)
        alike.plot([*one.correlations], [*one.correlations.values()], **drawn)
    norms.set_yscale("log", nonpositive="mask")
    norms.set_ylabel("norm of ∂L/∂z, loss L in nats,\nz in front of the rectifier")
    alike.set_ylabel("correlation of gradients by images\nthat are 1 % of their norm apart")
    alike.set_xlabel("block, from the input on")
    alike.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    for axes in (norms, alike):
        axes.grid(alpha=0.3)
    norms.set_title(title, fontsize="small")
    names = figure.legend(loc="outside right upper", fontsize="small", alignment="left")
    figure.set_size_inches(7 + names.get_window_extent().width / figure.dpi, 6.5)
    return figure


def draw_map(steps: Sequence[int], norms: Sequence[Sequence[float]], title: str) -> Any:
    """Return matplotlib's figure of norms of dL/dz: over depth at a few steps, and over time and depth.

    The map is darker where they are smaller, white where there is none.

    Args:
        steps: when they were recorded, two or more, in ascending order.
        norms: of each step's blocks, from the input on; not a number where there is none.
        title: above it.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import numpy as np
    from matplotlib import colors, pyplot, ticker

    values = np.ma.masked_less_equal(np.ma.masked_invalid(np.array(norms).T), 0)
    figure, (curves, axes) = pyplot.subplots(2, figsize=(8, 8), layout="constrained")
    numbers = np.arange(1, len(values) + 1)
    for number, at in enumerate(np.unique(np.linspace(0, len(steps) - 1, SHOWN).round().astype(int))):
        grey = 0.75 * number / (SHOWN - 1)
        drawn = {"color": mpl.colormaps["viridis"](grey), "marker": MARKERS[number], "markersize": 4}
        curves.plot(numbers, values[:, at], label=f"step {steps[at]:,}", markevery=-(-len(numbers) // MARKED), **drawn)
    curves.set_yscale("log")
    curves.grid(alpha=0.3)
    curves.set(xlabel="block, from the input on", ylabel="norm of ∂L/∂z, loss L in nats,\nz in front of the rectifier")
    curves.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    curves.set_title(title, fontsize="small")
    curves.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    mesh = axes.pcolormesh(steps, numbers, values, norm=colors.LogNorm(), cmap="viridis", shading="nearest")
    figure.colorbar(mesh, label="norm of ∂L/∂z")
    axes.set(xlabel="step", ylabel="block, from the input on")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    if values.mask.any():
        axes.set_title("white: none", fontsize="small")
    return figure
