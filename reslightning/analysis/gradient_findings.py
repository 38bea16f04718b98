"""What the gradients of networks that several seeds started say of claims; without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from reslightning.analysis.findings import Finding
from reslightning.compare.groups import statistic

FLAT = 2.0  # a gradient that grows or shrinks by a smaller factor keeps its size
RULE = (
    f"On its way from the last block to the first a gradient keeps its size if it grows or shrinks by a factor below "
    f"{FLAT:g}. The 95 % interval over seeds, by Student's t of the factors' logarithms, lies wholly on one side; else "
    "nothing is decided."
)


class Ratios(NamedTuple):
    """|dL/dz| at a network's first block over that at its last, of each seed.

    Attributes:
        label: what the network is called.
        plain: whether it has no shortcuts.
        blocks: how many it has.
        values: above 0, one a seed.
    """

    label: str
    plain: bool
    blocks: int
    values: Sequence[float]


def findings(networks: Sequence[Ratios]) -> list[Finding]:
    """Return of each network whether its gradient keeps its size, and of residual ones whether better than in plain.

    Compared are networks of as many blocks.
    """
    found = [_keeps(one) for one in networks]
    for plain in (one for one in networks if one.plain):
        found += [_better(one, plain) for one in networks if not one.plain and one.blocks == plain.blocks]
    return found


def _keeps(one: Ratios) -> Finding:
    low, middle, high = _interval([math.log(value) for value in one.values])
    flat = math.log(FLAT)
    verdict = "not decided"
    if -flat < low and high < flat:
        verdict = "supported"
    elif low > flat or high < -flat:
        verdict = "not supported"
    return Finding(f"{one.label}: the gradient keeps its size", verdict, _words(low, middle, high, len(one.values)))


def _better(one: Ratios, plain: Ratios) -> Finding:
    """Compare what the same seeds give, by how far the factors are from 1."""
    pairs = zip(plain.values, one.values, strict=True)
    low, middle, high = _interval([abs(math.log(first)) - abs(math.log(second)) for first, second in pairs])
    verdict = "supported" if low > 0 else "not supported" if high < 0 else "not decided"
    that = f"the gradient keeps its size better in {one.label} than in {plain.label}"
    return Finding(that, verdict, _words(low, middle, high, len(one.values)))


def _interval(logarithms: Sequence[float]) -> tuple[float, float, float]:
    found = statistic(logarithms, len(logarithms))
    half = math.inf if found.interval is None else found.interval
    return found.mean - half, found.mean, found.mean + half


def _words(low: float, middle: float, high: float, seeds: int) -> str:
    if seeds == 1:
        return f"factor {_factor(middle)} with one seed, which has no interval"
    return f"factor {_factor(middle)}, 95 % interval {_factor(low)} to {_factor(high)}, {seeds} seeds"


def _factor(logarithm: float) -> str:
    return f"{math.exp(min(logarithm, 700.0)):.3g}"  # which is as good as any larger number
