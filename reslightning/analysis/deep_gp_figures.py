"""Figures of what depth does to deep Gaussian processes; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reslightning.files import written

# A marker and a dash as well as a colour: they are told apart in grey, too.
LOOKS: dict[str, dict[str, Any]] = {
    "plain": {"color": "#D55E00", "marker": "s", "linestyle": "dashed"},
    "input-connected": {"color": "#CC79A7", "marker": "^", "linestyle": "dotted"},
    "residual": {"color": "#0072B2", "marker": "o", "linestyle": "solid"},
    "scaled residual": {"color": "#000000", "marker": "D", "linestyle": "dashdot", "markerfacecolor": "white"},
}
EXACT: dict[str, Any] = {"color": "#777777", "linestyle": (0, (1, 1)), "linewidth": 1.5}


def pathology(result: Mapping[str, Any], width: int, path: Path) -> None:
    """Draw medians and quartiles over depth of ``deep_gp.prior_pathology``'s result, Jacobians of ``width`` inputs."""
    figure, (left, right) = _figure(1, 2)
    for kind, formula in result["formulas"].items():
        cells = [cell for cell in result["cells"] if cell["kind"] == kind]
        depths = [cell["depth"] for cell in cells]
        for axes, name in ((left, "ratio"), (right, "variance")):
            low, middle, high = zip(*(cell[name] for cell in cells), strict=True)
            axes.plot(depths, middle, label=f"{kind}: {formula}", **LOOKS[kind])
            axes.fill_between(depths, low, high, color=LOOKS[kind]["color"], alpha=0.12, linewidth=0)
    right.axhline(result["inputs"], label="the inputs themselves", **EXACT)
    left.set(ylabel="largest / smallest singular value", yscale="log", title=f"Jacobian, {width} inputs")
    right.set(ylabel="variance of the output over inputs", yscale="log", title="Function, 1 input")
    _save(figure, [left, right], right, path, "lines: medians of draws from the prior; bands: quartiles")


def residual(rows: Sequence[Mapping[str, Any]], target: str, path: Path) -> None:
    """Draw means and deviations over depth of ``deep_gp.residual_study``'s rows of a target, a column for each N."""
    rows = [row for row in rows if row["target"] == target]
    counts = sorted({row["points"] for row in rows})
    figure, panels = _figure(2, len(counts))
    for name, label, line in (
        ("log_likelihood", "test log-likelihood (nats an observation)", panels[: len(counts)]),
        ("error", "test error (root mean square)", panels[len(counts) :]),
    ):
        for count, axes in zip(counts, line, strict=True):
            _depths(axes, [row for row in rows if row["points"] == count], name)
            axes.set_title(f"{count} training observations", fontsize="medium")
            axes.set_ylabel(label, fontsize="small")
    for axes in panels[len(counts) :]:
        axes.set_ylim(bottom=0)
    seeds = rows[0]["seeds"]
    over = "one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds"
    _save(figure, panels, panels[0], path, f"target: {target}; {over}")


def _depths(axes: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Draw a line for each deep model from the shallow one on, and the exact one's across."""
    for model, shift in (("residual", -0.03), ("plain", 0.03)):  # bars beside each other
        line = sorted((row for row in rows if row["model"] in (model, "shallow")), key=lambda row: row["depth"])
        deviations = [row[f"{name}_deviation"] or 0.0 for row in line]
        places = [row["depth"] + shift for row in line]
        axes.errorbar(places, [row[name] for row in line], deviations, capsize=3, label=model, **LOOKS[model])
    for row in rows:
        if row["model"] == "exact":
            axes.axhline(row[name], label="exact shallow Gaussian process", **EXACT)


def _figure(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * columns, 3.6 * rows + 0.8), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).flatten()


def _save(figure: Any, panels: Sequence[Any], named: Any, path: Path, title: str) -> None:
    """Finish a figure over depth, whose legend is that of one panel, below all, and write it."""
    from matplotlib.ticker import MaxNLocator

    for axes in panels:
        axes.set_xlabel("layers")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize="medium")
    figure.legend(*named.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    with written(path) as file:
        figure.savefig(file, format="png", dpi=150)
