"""Deep Gaussian processes lose with depth what they can say (arXiv:1402.5836); does residual structure save them?

Two studies of a folder each, made of cells: a cell that is there is not run again, so that a stopped study goes on.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from reslightning.analysis.deep_gp_findings import growth, means, table, verdicts
from reslightning.errors import UserError
from reslightning.files import check_folder, read_json, written

if TYPE_CHECKING:
    from torch import Tensor

# The grid of the paper's code, which has four models in it: inducing points, harmonics, Hodge's fields, and one that is
# Euclidean behind its first layer. There the kernel ends with the features, at degree 6; here it goes on. Here what has
# to be found starts narrow, and Adam's rate is 0.03 instead of 0.01: 500 steps end where the bound is nearly flat.
PAPER: dict[str, Any] = {
    "points": (100, 200, 400, 800, 1600),
    "depths": (1, 2, 3, 4, 5),
    "seeds": 5,
    "iterations": 1000,
}
TEST_POINTS = 5000
NOISE = 0.01  # standard deviation of the observations
WIDTH = 2  # of the networks whose Jacobians are drawn; of one input all ratios are 1
EXTENT = 2.0  # lengthscales: outputs are drawn at inputs from -EXTENT to EXTENT
INPUTS = 50


class Target(NamedTuple):
    """A function on the sphere, of points [N, 3]."""

    formula: str
    function: Callable[[Tensor], Tensor]


def _published(points: Tensor) -> Tensor:
    x, y, z = points.unbind(-1)
    first, second = x * y.abs() * z / (x * x + y * y), y * z.abs() / (x * x + z * z).sqrt()
    return -(math.sqrt(15) * first + math.sqrt(3) * second) / math.sqrt(8 * math.pi)


def _harmonics(points: Tensor) -> Tensor:
    x, _, z = points.unbind(-1)
    return -(math.sqrt(15) * x * z + math.sqrt(3) * x) / math.sqrt(8 * math.pi)


# Re Y_2^1 and, rotated by 90 degrees about x, Re Y_1^1. The paper's code (run_synthetic.py) gives its library the
# colatitude as the azimuth and the reverse: the sum is then discontinuous at the poles and has kinks.
TARGETS = {
    "published": Target("-sqrt(15/(8 pi)) x |y| z / (x^2 + y^2) - sqrt(3/(8 pi)) y |z| / sqrt(x^2 + z^2)", _published),
    "harmonics": Target("-sqrt(15/(8 pi)) x z - sqrt(3/(8 pi)) x", _harmonics),
}


def prior_pathology(folder: Path, *, depths: Sequence[int] = range(1, 11), draws: int = 1000) -> dict[str, Any]:
    """Draw from priors of deep Gaussian processes, and write how they degenerate with depth.

    Of every kind of ``deep_gp_priors.PRIORS`` and every depth: the ratio of the largest to the smallest singular value
    of the Jacobian of networks of WIDTH inputs, which is large where the output follows one direction of the input
    alone; and the variance of the output over inputs of networks of one input, 0 where it is constant. Writes
    ``pathology.json`` and ``pathology.png``, and cells to ``cells/``.

    Args:
        folder: where to; what is there of the same settings is not drawn again.
        depths: layers.
        draws: networks of each kind and depth.

    Returns:
        ``pathology.json``'s content: ``cells``, each with quartiles of ``ratio`` and ``variance``; the inputs' own
        variance is ``inputs``.

    Raises:
        UserError: a number is not allowed, or the folder cannot be written to.
    """
    from reslightning.analysis import deep_gp_figures
    from reslightning.analysis.deep_gp_priors import PRIORS

    _check(folder, depths=depths, draws=(draws,))
    settings = [{"kind": kind, "depth": depth, "draws": draws} for kind in PRIORS for depth in sorted(set(depths))]
    cells = _cells(
        folder / "cells",
        "prior",
        settings,
        _draw,
        lambda cell: "ratio {:.3g}, variance {:.3g}".format(cell["ratio"][1], cell["variance"][1]),
    )
    result = {
        "formulas": {kind: prior.formula for kind, prior in PRIORS.items()},
        "inputs": float(_inputs().var()),
        "cells": cells,
    }
    deep_gp_figures.pathology(result, WIDTH, folder / "pathology.png")
    _write(folder / "pathology.json", result)
    print(growth(result))
    return result


def _inputs() -> Any:
    import numpy as np

    return np.linspace(-EXTENT, EXTENT, INPUTS)[:, None]


def _draw(kind: str, depth: int, draws: int) -> dict[str, Any]:
    import numpy as np

    from reslightning.analysis import deep_gp_priors as priors

    random = np.random.default_rng([depth, [*priors.PRIORS].index(kind)])
    ratio = priors.ratios(priors.jacobians(kind, depth, WIDTH, draws, random))
    variance = priors.spread(priors.values(kind, depth, _inputs(), draws, random))
    return {
        name: np.quantile(found, (0.25, 0.5, 0.75)).tolist()
        for name, found in (("ratio", ratio), ("variance", variance))
    }


def residual_study(
    folder: Path,
    *,
    points: Sequence[int] = (100, 400),
    depths: Sequence[int] = (1, 2, 3),
    seeds: int = 3,
    iterations: int = 500,
    targets: Sequence[str] = tuple(TARGETS),
) -> dict[str, Any]:
    """Fit deep Gaussian processes on the sphere with and without residual form, and write what depth does to them.

    After arXiv:2411.00161, Section 4.1; ``**PAPER`` is its grid. Every target is observed with noise at a lattice of
    points; log-likelihood and error are of observations at TEST_POINTS others. Models are ``residual`` and ``plain``
    (``deep_gp_sphere.DeepGP``), which of one layer are the same, ``shallow``, and an ``exact`` Gaussian process: what
    a shallow one loses by its few features is no merit of depth. Writes ``residual.json``, ``residual-TARGET.png``,
    and cells to ``cells/``.

    Args:
        folder: where to; a cell that is there is not run again.
        points: numbers of training observations.
        depths: layers; 1 is always among them.
        seeds: how often, each with its own noise, start and draws.
        iterations: steps of each fit.
        targets: keys of TARGETS.

    Returns:
        ``residual.json``'s content: ``rows`` with mean and deviation over seeds, and ``verdicts``.

    Raises:
        UserError: a number or a target is not allowed, or the folder cannot be written to.
        TrainingError: a bound has no value.
    """
    _check(folder, points=points, depths=depths, seeds=(seeds,), iterations=(iterations,))
    if unknown := set(targets) - set(TARGETS):
        raise UserError(f"targets {', '.join(sorted(unknown))} unknown; allowed: {', '.join(TARGETS)}")
    deep = [(model, depth) for model in ("residual", "plain") for depth in sorted(set(depths) - {1})]
    settings: list[dict[str, Any]] = [
        {"target": target, "points": count, "model": model, "depth": depth, "seed": seed, "iterations": iterations}
        for target in dict.fromkeys(targets)
        for count in sorted(set(points))
        for model, depth in [("exact", 1), ("shallow", 1), *deep]
        for seed in range(seeds)
    ]
    return _study(folder, {name: TARGETS[name].formula for name in targets}, settings)


def _study(folder: Path, formulas: dict[str, str], settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from reslightning.analysis import deep_gp_figures

    for name, formula in formulas.items():
        print(f"{name}: f(x, y, z) = {formula}")
    cells = _cells(
        folder / "cells",
        "sphere",
        settings,
        _fit,
        lambda cell: "log-likelihood {log_likelihood:.3f} nats, error {error:.4f}, {seconds:.0f} s".format(**cell),
    )
    rows = means(cells)
    result = {"formulas": formulas, "rows": rows, "verdicts": verdicts(cells)}
    for name in formulas:
        deep_gp_figures.residual(rows, name, folder / f"residual-{name}.png")
    _write(folder / "residual.json", result)
    print(table(result))
    return result


def _fit(target: str, points: int, model: str, depth: int, seed: int, iterations: int) -> dict[str, Any]:
    import torch

    from reslightning.analysis import deep_gp_sphere as sphere

    random = torch.Generator().manual_seed(seed)
    (x, y), unseen = (_observed(target, count, random) for count in (points, TEST_POINTS))
    started = time.monotonic()
    network = (
        sphere.ExactGP(x, y) if model == "exact" else sphere.DeepGP(depth, residual=model != "plain", random=random)
    )
    bounds = sphere.fit(network, x, y, iterations)
    likelihood, error = sphere.score(network, *unseen)
    return {
        "log_likelihood": likelihood,
        "error": error,
        "bound": fmean(bounds[-10:]) / points,
        "noise": network.log_noise.exp().item(),
        "seconds": round(time.monotonic() - started, 2),
    }


def _observed(target: str, count: int, random: Any) -> tuple[Tensor, Tensor]:
    """Return a lattice [count, 3] and noisy observations [count] there."""
    import torch

    from reslightning.analysis.deep_gp_sphere import lattice

    x = lattice(count)
    return x, TARGETS[target].function(x) + NOISE * torch.randn(count, generator=random, dtype=x.dtype)


def _cells(
    folder: Path,
    stem: str,
    settings: Sequence[dict[str, Any]],
    measure: Callable[..., dict[str, Any]],
    told: Callable[[dict[str, Any]], str],
) -> list[dict[str, Any]]:
    """Return what was measured with each settings, from its file where that is there, and print what is new."""
    found = []
    for number, setting in enumerate(settings, 1):
        path = folder / "-".join([stem, *(str(value).replace(" ", "-") for value in setting.values())])
        path = path.with_name(f"{path.name}.json")
        cell, is_whole = read_json(path)
        if not is_whole or any(cell.get(name) != value for name, value in setting.items()):
            cell = setting | measure(**setting)
            _write(path, cell)
            words = ", ".join(f"{name} {value}" for name, value in setting.items())
            print(f"{number} of {len(settings)}: {words}: {told(cell)}", file=sys.stderr)
        found.append(cell)
    return found


def _check(folder: Path, **numbers: Sequence[int]) -> None:
    for name, values in numbers.items():
        if not values or min(values) < 1:
            raise UserError(
                f"{name} {', '.join(map(str, values)) or 'empty'} not allowed; give whole numbers of 1 or more"
            )
    try:
        check_folder(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be written to: {getattr(error, 'strerror', None) or error}") from error


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with written(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
