"""What cells of the studies of deep Gaussian processes have in common, in tables and verdicts; without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from reslightning.analysis.findings import Finding
from reslightning.compare.groups import statistic

MANY = 100.0  # times as much along one direction of the input as along another: the other counts for nothing
MARGIN = 0.1  # nats an observation: less is neither a gain nor a harm


class Claim(NamedTuple):
    """What is said of the log-likelihood of the deepest networks of a model less that of a shallow one."""

    text: str
    model: str
    shallow: str
    points: Callable[[Sequence[int]], int]
    above: bool
    threshold: float  # nats an observation


CLAIMS = (
    Claim("depth helps with many points", "residual", "shallow", max, True, MARGIN),
    Claim("depth does no harm with few points", "residual", "shallow", min, True, -MARGIN),
    Claim("without the residual form depth harms with few points", "plain", "shallow", min, False, -MARGIN),
    Claim("with many points depth beats a shallow one of all features", "residual", "exact", max, True, MARGIN),
)


def growth(result: Mapping[str, Any]) -> str:
    """Return medians at the least and the most layers as text."""
    from tabulate import tabulate

    lines = []
    for kind, formula in result["formulas"].items():
        ends = [cell for cell in result["cells"] if cell["kind"] == kind]
        ends = [ends[0], ends[-1]]
        words = [" to ".join(f"{cell[name][1]:.2g}" for cell in ends) for name in ("ratio", "variance")]
        lines.append([kind, formula, " to ".join(str(cell["depth"]) for cell in ends), *words])
    headers = ["prior", "layer", "layers", "ratio of singular values", "variance over inputs"]
    return tabulate(lines, headers, disable_numparse=True)


def of_priors(result: Mapping[str, Any]) -> list[Finding]:
    """Return of every prior whether its deepest draws still follow all directions of their input.

    Three quarters of the draws decide: their ratio of singular values is above MANY, or below.
    """
    found = []
    for kind in result["formulas"]:
        cell = max((cell for cell in result["cells"] if cell["kind"] == kind), key=lambda cell: cell["depth"])
        low, middle, high = cell["ratio"]
        verdict = "supported" if low > MANY else "not supported" if high < MANY else "not decided"
        numbers = f"ratio of singular values {middle:.2g}, quartiles {low:.2g} to {high:.2g}"
        found.append(
            Finding(f"{cell['depth']} layers, {kind}: a draw follows one direction of its input", verdict, numbers)
        )
    return found


def of_fits(result: Mapping[str, Any]) -> list[Finding]:
    """Return what is found of the claims on deep Gaussian processes on the sphere."""
    return [
        Finding(
            f"{found['target']}: {found['claim']}",
            found["verdict"],
            f"{found['points']} points, {found['depth']} layers: {found['difference']:+.3f} "
            f"{_interval(found['half_interval'])}, threshold {found['threshold']:g} nats",
        )
        for found in result["verdicts"]
    ]


def means(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and deviation over seeds of log-likelihood and error, of each kind of cell."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    names = ("target", "points", "model", "depth")
    for cell in cells:
        groups.setdefault(tuple(cell[name] for name in names), []).append(cell)
    rows = []
    for key, group in groups.items():
        row = dict(zip(names, key, strict=True)) | {"seeds": len(group)}
        for name in ("log_likelihood", "error", "seconds"):
            found = [cell[name] for cell in group]
            row |= {name: fmean(found), f"{name}_deviation": stdev(found) if len(found) > 1 else None}
        rows.append(row)
    return rows


def verdicts(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what is found of every claim on every target; nothing where all networks are shallow."""
    if max(cell["depth"] for cell in cells) == 1:
        return []
    return [
        _verdict(claim, target, cells) for target in dict.fromkeys(cell["target"] for cell in cells) for claim in CLAIMS
    ]


def _verdict(claim: Claim, target: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return whether a claim is supported, not supported or not decided: by differences of the same seed.

    Their 95 % interval by Student's t stands wholly on the claim's side of its threshold, wholly on the other, or has
    the threshold within; of one seed there is none, and nothing is decided.
    """
    points, depth = claim.points([cell["points"] for cell in cells]), max(cell["depth"] for cell in cells)
    found: dict[tuple[str, int], dict[int, float]] = {}
    for cell in cells:
        if (cell["target"], cell["points"]) == (target, points):
            found.setdefault((cell["model"], cell["depth"]), {})[cell["seed"]] = cell["log_likelihood"]
    deep, shallow = found[claim.model, depth], found[claim.shallow, 1]
    differences = [value - shallow[seed] for seed, value in deep.items()]
    over = statistic(differences, len(differences))
    mean, half = over.mean, math.inf if over.interval is None else over.interval
    sides = [mean - half > claim.threshold, mean + half < claim.threshold]
    yes, no = sides if claim.above else sides[::-1]
    return {
        "target": target,
        "claim": claim.text,
        "verdict": "supported" if yes else "not supported" if no else "not decided",
        "points": points,
        "depth": depth,
        "difference": mean,
        "half_interval": half if math.isfinite(half) else None,
        "threshold": claim.threshold,
    }


def table(result: Mapping[str, Any]) -> str:
    """Return rows and verdicts as text."""
    from tabulate import tabulate

    headers = ["target", "points", "model", "layers", "log-likelihood (nats)", "error (RMSE)", "seconds"]
    spreads = (("log_likelihood", 3), ("error", 4), ("seconds", 0))
    lines = [
        [row["target"], row["points"], row["model"], row["depth"], *(_spread(row, *spread) for spread in spreads)]
        for row in result["rows"]
    ]
    said = [f"{found.that}: {found.verdict} ({found.numbers})" for found in of_fits(result)]
    return "\n".join([tabulate(lines, headers, disable_numparse=True), "", *said])


def _spread(row: Mapping[str, Any], name: str, digits: int) -> str:
    deviation = row[f"{name}_deviation"]
    return f"{row[name]:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def _interval(half: float | None) -> str:
    return "of one seed, which has no interval" if half is None else f"± {half:.3f}"
