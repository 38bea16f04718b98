"""One self-contained page on runs: a table to sort and filter, curves, differences, confusion, worst images."""

from __future__ import annotations

import base64
import contextlib
import csv
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

from reslightning.compare import tables
from reslightning.compare.columns import differing
from reslightning.compare.figures import AXES, Curve, legend
from reslightning.compare.groups import Group, Part, Statistic
from reslightning.errors import UserError
from reslightning.files import write_atomically
from reslightning.run import layout
from reslightning.run.record import RunRecord

MOST_CLASSES = 30  # a confusion matrix with more is left to its file

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1200px;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem}
th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;white-space:nowrap}
th{cursor:pointer;text-align:left;background:#f4f5f7;position:sticky;top:0}
th[aria-sort=ascending]::after{content:" ▲"}
th[aria-sort=descending]::after{content:" ▼"}
td.number{text-align:right;font-variant-numeric:tabular-nums}
input{font:inherit;padding:.3rem .5rem;width:20rem;margin:.5rem 0}
.confusion td{text-align:right;border:1px solid #eee}.confusion th{cursor:default}
img{max-width:100%}.note{color:#8a4b00}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.runs")) {
  const rows = () => [...table.tBodies[0].rows];
  [...table.tHead.rows[0].cells].forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    rows().sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? String(x).localeCompare(y, undefined, {numeric: true}) : x - y;
      return down ? -order : order;
    }).forEach(row => table.tBodies[0].append(row));
  }));
}
document.getElementById("filter").addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("table.runs tbody tr"))
    row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
});
"""


def write_report(parts: Sequence[Part], lines: Sequence[Curve], path: Path, columns: Sequence[str], over: str) -> None:
    """Write the page.

    Args:
        parts: title and rows of each table, in order.
        lines: the curves.
        path: the file.
        columns: the tables' columns.
        over: the curves' horizontal axis: epoch, iterations or samples.

    Raises:
        UserError: the file cannot be written.
    """
    head, drawn = _figure(lines, over)
    runs = [run for _, groups in parts for group in groups for run in group.runs]
    body = [
        "<h1>Runs</h1>",
        f"<p>{len(runs)} runs; errors in percent. Click a heading to sort, a name in the figure to hide its curve.</p>",
        '<input id="filter" type="search" placeholder="filter: words of a row" aria-label="filter">',
        *(_table(title, groups, columns) for title, groups in parts),
        f"<h2>Curves</h2><p>{legend(lines).capitalize()}. Drag to zoom in; the tools move and reset it.</p>",
        drawn,
        _differences(runs),
        *(_evaluation(groups) for _, groups in parts),
        *(_note(f"{run.source}: {problem}") for run in runs for problem in run.problems),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>reslightning: runs</title>'
        '<link rel="icon" href="data:,">'
        f"<style>{STYLE}</style>{head}</head><body>{''.join(body)}<script>{SCRIPT}</script></body></html>"
    )
    try:
        write_atomically(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _table(title: str, groups: Sequence[Group], columns: Sequence[str]) -> str:
    heads = "".join(f"<th>{html.escape(tables.TITLES.get(name, name))}</th>" for name in columns)
    rows = []
    for group in groups:
        cells = []
        for name in columns:
            value = tables.value_of(group, name)
            plain = value.mean if isinstance(value, Statistic) else value
            numeric = isinstance(plain, int | float) and math.isfinite(plain)
            data = f' data-value="{plain}" class="number"' if numeric else ""
            cells.append(f"<td{data}>{html.escape(tables.text(value, name))}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<h2>{html.escape(title)}</h2><div class="wide"><table class="runs"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>" + "".join(_note(n) for group in groups for n in group.notes)
    )


def _figure(lines: Sequence[Curve], over: str) -> tuple[str, str]:
    """Return the figure's scripts for the page's head, and its place."""
    from bokeh.embed import components
    from bokeh.plotting import figure
    from bokeh.resources import Resources

    if not lines:
        return "", "<p>No run has finished an epoch.</p>"
    plot = figure(
        height=480,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag="box_zoom",
        x_axis_label=AXES[over],
        y_axis_label="top-1 error (%)",
        output_backend="canvas",
    )
    plot.toolbar.logo = None
    labels = list(dict.fromkeys(line.label for line in lines))
    for line in lines:
        if line.low != line.high:
            plot.varea(line.x, line.low, line.high, color=line.colour, alpha=0.15, legend_label=line.label)
        width = 2.2 if line.split == "val" else 0.8
        shown = plot.line(line.x, line.y, color=line.colour, line_width=width, legend_label=line.label)
        shown.glyph.line_dash = line.style
    plot.legend.click_policy = "hide"
    plot.legend.label_text_font_size = "9pt"
    if len(labels) > 12:
        plot.legend.ncols = math.ceil(len(labels) / 25)
    plot.add_layout(plot.legend[0], "right" if len(labels) <= 12 else "below")
    script, place = components(plot)
    return Resources(mode="inline", components=["bokeh"]).render() + script, place


def _differences(runs: Sequence[RunRecord]) -> str:
    keys = differing(runs)
    if not keys:
        return "<h2>Differences</h2><p>The runs' options are the same.</p>"
    heads = "".join(f"<th>{html.escape(key)}</th>" for key in ["run", *keys])
    rows = []
    for run in runs:
        options = run.summary.get("options") or {}
        cells = [run.name, *(json.dumps(options[key]).strip('"') if key in options else "" for key in keys)]
        rows.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    return (
        f'<h2>Differences</h2><div class="wide"><table class="runs"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _evaluation(groups: Sequence[Group]) -> str:
    """Return the confusion matrix and the worst images of the best run whose directory has them."""
    runs = [Group([run]) for group in groups for run in group.runs]
    for group in tables.order(runs, "top1"):
        (run,) = group.runs
        folder, found = Path(run.source) / layout.EVALUATIONS, ""
        with contextlib.suppress(OSError, ValueError, IndexError, csv.Error):  # absent or cut
            found += _confusion(run, list(csv.reader((folder / layout.CONFUSION).read_text().splitlines())))
        with contextlib.suppress(OSError):
            picture = base64.b64encode((folder / layout.WORST).read_bytes()).decode()
            found += (
                f"<h2>Worst validation images of {html.escape(run.name)}</h2>"
                f'<img alt="worst validation images" src="data:image/png;base64,{picture}">'
            )
        if found:
            return found
    return ""


def _confusion(run: RunRecord, rows: list[list[str]]) -> str:
    names, body = rows[0][1:], []
    if len(names) > MOST_CLASSES:
        return ""
    if len(rows) - 1 != len(names):
        raise ValueError("it is cut")
    for row in rows[1:]:
        counts = [int(cell) for cell in row[1:]]
        total = sum(counts) or 1
        cells = "".join(
            f'<td style="background:rgba(0,114,178,{count / total:.2f})" title="{html.escape(row[0])} taken for '
            f'{html.escape(name)}">{count}</td>'
            for count, name in zip(counts, names, strict=True)
        )
        body.append(f"<tr><th>{html.escape(row[0])}</th>{cells}</tr>")
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    return (
        f"<h2>Confusion of {html.escape(run.name)}</h2><p>Rows are classes, columns what they were taken for.</p>"
        f'<div class="wide"><table class="confusion"><tr><th></th>{heads}</tr>{"".join(body)}</table></div>'
    )
