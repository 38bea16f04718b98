"""Draws from priors of deep Gaussian processes over depth (Duvenaud et al. 2014, arXiv:1402.5836).

Every layer has independent outputs with the squared exponential kernel s^2 exp(-|x - y|^2 / 2) and as many outputs as
there are inputs. Draws are exact but for JITTER: of values at given inputs layer by layer, and of the Jacobian at one
input by the chain rule. There, a layer's derivatives are independent N(0, s^2) whatever the layers below gave, as the
kernel is stationary: a value and its derivative at one point are uncorrelated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
JITTER = 1e-8  # added to the variance of values, without which rounding makes covariances of close inputs indefinite


class Prior(NamedTuple):
    """How a layer f makes the next values from those before, h, and the network's inputs, x."""

    formula: str
    sees_inputs: bool
    residual: bool
    deviation: Callable[[int], float]  # s of each layer, by depth


PRIORS = {
    "plain": Prior("f(h)", False, False, lambda depth: 1.0),
    "input-connected": Prior("f(h, x)", True, False, lambda depth: 1.0),
    "residual": Prior("h + f(h)", False, True, lambda depth: 1.0),
    "scaled residual": Prior("h + f(h) / sqrt(depth)", False, True, lambda depth: 1 / math.sqrt(depth)),
}


def jacobians(kind: str, depth: int, width: int, draws: int, random: np.random.Generator) -> Array:
    """Draw the Jacobians of whole networks at one input, [draws, width, width].

    Args:
        kind: a key of PRIORS.
        depth: layers, 1 or more.
        width: inputs, and outputs of each layer.
        draws: how many networks.
        random: where draws come from.
    """
    prior = PRIORS[kind]
    identity = np.eye(width)
    found = np.broadcast_to(identity, (draws, width, width))
    for layer in range(depth):
        derivative = prior.deviation(depth) * random.standard_normal((draws, width, width))
        own = derivative + identity if prior.residual else derivative
        found = own @ found
        if prior.sees_inputs and layer:  # the first layer has the inputs alone
            found = found + prior.deviation(depth) * random.standard_normal((draws, width, width))
    return found


def values(kind: str, depth: int, inputs: Array, draws: int, random: np.random.Generator) -> Array:
    """Draw the outputs of whole networks at some inputs jointly, [draws, N, width].

    Args:
        kind: a key of PRIORS.
        depth: layers, 1 or more.
        inputs: [N, width], in lengthscales.
        draws: how many networks.
        random: where draws come from.
    """
    prior = PRIORS[kind]
    found = np.broadcast_to(inputs, (draws, *inputs.shape))
    for layer in range(depth):
        seen = (
            np.concatenate([found, np.broadcast_to(inputs, found.shape)], -1) if prior.sees_inputs and layer else found
        )
        root = np.linalg.cholesky(_covariance(seen) + JITTER * np.eye(len(inputs)))
        drawn = prior.deviation(depth) * root @ random.standard_normal(found.shape)
        found = found + drawn if prior.residual else drawn
    return found


def _covariance(inputs: Array) -> Array:
    """Return the kernel's matrices [draws, N, N] between the inputs [draws, N, D] of a layer with s = 1."""
    lengths = np.square(inputs).sum(-1)
    squares = lengths[:, :, None] + lengths[:, None] - 2 * inputs @ inputs.swapaxes(1, 2)
    return np.exp(-np.maximum(squares, 0) / 2)


def ratios(drawn: Array) -> Array:
    """Return the largest over the smallest singular value of each matrix of [draws, D, D]: 1 or more."""
    singular = np.linalg.svd(drawn, compute_uv=False)
    return singular[:, 0] / singular[:, -1]


def spread(drawn: Array) -> Array:
    """Return each draw's variance over its inputs, [draws] from [draws, N, width]: 0 of a constant function."""
    return drawn.var(1).mean(-1)
