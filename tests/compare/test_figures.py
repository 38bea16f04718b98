"""Figures and the page: curves with their bands, legends over none, and what the best run's validation left."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import pyplot
from matplotlib.transforms import Bbox

from reslightning.compare.columns import COLUMNS
from reslightning.compare.figures import curves, draw, legend, look
from reslightning.compare.groups import Group, Table
from reslightning.run.record import RunRecord
from tests.commands.test_compare import made
from tests.conftest import OPTIONS, kill_behind, process


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figures(cli, tmp_path, suffix):
    for seed, top1 in enumerate((0.90, 0.92)):
        made(tmp_path / "runs", f"a{seed}", top1=top1, seed=seed)
    made(tmp_path / "runs", "b", arch="resnet32", top1=0.94, epochs=5)
    result = cli(f"compare runs --plot fig.{suffix} --by arch --log --over samples")
    assert result.status == 0, result.err
    content = Path(f"fig.{suffix}").read_bytes()
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])
    assert len(content) > 5000


def test_runs_of_two_data_sets_share_no_curve(cli, tmp_path):
    made(tmp_path / "runs", "a", top1=0.9)
    made(tmp_path / "runs", "b", top1=0.5, dataset="CIFAR100")
    folder = tmp_path / "runs" / "a" / "evaluations"
    folder.mkdir()
    (folder / "val-confusion.csv").write_text("class,cat,dog\ncat,40,2\ndog,5\n")  # cut
    assert cli("compare runs --by arch --html page.html").status == 0
    page = Path("page.html").read_text()
    for title in ("CIFAR10", "CIFAR100"):
        assert f"resnet20 ({title})" in page
    assert "Confusion of" not in page


def test_the_page_shows_what_the_best_run_s_validation_left(cli, tmp_path):
    for name, top1 in (("a", 0.9), ("b", 0.8)):
        folder = made(tmp_path / "runs", name, top1=top1, options={"model.arch": f"<{name}>"}) / "evaluations"
        folder.mkdir()
        (folder / "val-confusion.csv").write_text("class,cat,<dog>\ncat,30,10\n<dog>,5,45\n")
        (folder / "val-worst.png").write_bytes(b"\x89PNG")
    assert cli("compare runs --html page.html").status == 0
    page = Path("page.html").read_text()
    assert page.count("<h2>Confusion of a</h2>") == page.count("<h2>Worst validation images of a</h2>") == 1
    assert "Confusion of b" not in page
    assert 'rgba(0,114,178,0.25)" title="cat taken for &lt;dog&gt;">10</td>' in page
    assert "data:image/png;base64,iVBORw==" in page
    assert '<td data-value="9.999999999999998" class="number">10.00</td>' in page
    assert "<td>&lt;b&gt;</td>" in page


def record(name: str, errors: list[float], **facts) -> RunRecord:
    """Return a run that had these errors, in percent."""
    rows = [
        {"epoch": k + 1.0, "step": 10.0 * (k + 1), "val/top1": 1 - e / 100, "train/top1": 1 - e / 50}
        for k, e in enumerate(errors)
    ]
    return RunRecord(name, name, {"arch": "x", **facts}, rows)


def test_curves_are_means_with_their_deviation():
    runs = [
        record(name, errors, options={"data.batch_size": 4}) for name, errors in (("a", [50, 20, 10]), ("b", [40, 30]))
    ]
    ((train, curve), notes) = curves([Table("title", [Group(runs, {"arch": "x"})])], "epoch")
    assert notes == ["arch x: the curve of 2 of its 2 runs ends at epoch 2, as the shortest of them"]
    _, notes = curves([Table("title", [Group([*runs, RunRecord("c", "c", {}, [])], {"arch": "x"})])], "epoch")
    assert notes == ["arch x: the curve of 2 of its 3 runs ends at epoch 2, as the shortest of them"]
    assert (curve.label, curve.x, curve.runs) == ("arch x", [1, 2], 2)  # where both are
    assert curve.y == pytest.approx([45, 25])
    assert curve.low == pytest.approx([45 - 50**0.5, 25 - 50**0.5])
    assert curve.high == pytest.approx([45 + 50**0.5, 25 + 50**0.5])
    assert (train.split, train.colour, train.style) == ("train", curve.colour, curve.style)
    (first, _, second, _), _ = curves(
        [Table("one, same", [Group(runs[:1])]), Table("other, same", [Group(runs[1:])])], "samples"
    )
    assert first.x == [40, 80, 120]
    assert first.colour != second.colour


def test_bands_are_what_the_table_says():
    runs = [record(name, [90, error]) for name, error in (("a", 9.5), ("b", 8.25), ("c", 8.5))]
    group, alone = Group(runs, {"arch": "x"}), Group(runs[:1], {"arch": "y"})
    said = group.value(COLUMNS["top1"])
    lines, _ = curves([Table("title", [group, alone])], "epoch")
    band, single = (line for line in lines if line.split == "val")
    assert band.y[-1] == said.mean
    assert band.high[-1] == said.mean + said.deviation
    assert band.low[-1] == said.mean - said.deviation
    assert single.low == single.y == single.high
    assert legend(lines) == ["thin: training", "bold: validation", "band: ± standard deviation over 3 runs"]
    assert legend([line for line in lines if line.runs == 1]) == ["thin: training", "bold: validation"]


def test_what_was_published_stands_beside_the_curves(cli, tmp_path):
    """Of the network, data and protocol alone: a level of each curve's colour, within the axes."""
    facts = {"dataset": "CIFAR10", "protocol": "center", "val_source": "test"}
    known, other = (
        record(arch, [30, 20], **(facts | {"arch": arch, "n_samples": {"val": 10000}}))
        for arch in ("resnet56", "resnet8")
    )
    lines, _ = curves([Table("title", [Group([known]), Group([other])])], "epoch")
    assert [line.published for line in lines] == [None, 6.97, None, None]
    assert legend(lines)[-1] == "level: published"
    for log in (False, True):
        figure = draw(lines, log=log, over="epoch")
        (axes,) = figure.axes
        (level,) = (line for line in axes.lines if set(line.get_ydata()) == {6.97})
        assert level.get_color() == lines[1].colour
        assert axes.get_ylim()[0] < 6.97 < axes.get_ylim()[1]
        pyplot.close(figure)
    rows = made(tmp_path / "runs", "a", arch="resnet56", top1=0.9) / "metrics.csv"
    rows.write_text(rows.read_text().replace(",359,", ",10000,"))  # the whole test set
    assert cli("compare runs --html page.html").status == 0
    assert "level: published" in Path("page.html").read_text()


def test_lines_are_told_apart_without_their_colours():
    groups = [Group([record(f"run{number}", [50, 20])]) for number in range(24)]
    figure = draw(curves([Table("title", groups)], "epoch")[0], log=False, over="epoch")
    bold = [line for line in figure.axes[0].lines if line.get_linewidth() > 1]
    assert len({(line.get_marker(), line.get_linestyle()) for line in bold}) == 24
    assert len({look(number)[1:] for number in range(32)}) == 32
    thin = [line for line in figure.axes[0].lines if line.get_linewidth() < 1]
    assert [line.get_linestyle() for line in thin] == [line.get_linestyle() for line in bold]
    pyplot.close(figure)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("count", [1, 6, 24, 100])
def test_a_legend_lies_over_no_curve(count, log):
    """Whatever there is to say: all is within the figure, and the axes stay large."""
    errors = [[100 * 0.9**k, 50, 20, 5 + k, k] for k in range(count)]
    options = [{f"model.{'long' * 5}": k, "model.weights": "/folder" * 20} for k in range(count)]
    groups = [
        Group([record(f"{k}-{s}", [e + s for e in errors[k]], options=options[k], seed=s) for s in range(1 + k % 3)])
        for k in range(count)
    ]
    lines, _ = curves([Table("title", groups)], "epoch")
    figure = draw(lines, log=log, over="epoch", title="a title of many words " * 10)
    figure.draw_without_rendering()
    (axes,), (names,) = figure.axes, figure.legends
    box, paper, plotted = names.get_window_extent(), figure.bbox, axes.get_window_extent()
    drawn = [text.get_text() for text in names.get_texts()]
    assert len(set(drawn)) == len(drawn) == count
    for artist in (*axes.lines, *axes.collections):
        inside = Bbox.intersection(artist.get_window_extent(), plotted)
        assert inside is not None
        assert Bbox.intersection(inside, box) is None
    for shown in (box, axes.get_tightbbox(), axes.title.get_window_extent()):
        assert paper.x0 <= shown.x0 < shown.x1 <= paper.x1
        assert paper.y0 <= shown.y0 < shown.y1 <= paper.y1
    assert plotted.width >= 5.5 * figure.dpi
    assert plotted.height >= 3 * figure.dpi
    ticks = sorted(
        (label.get_window_extent().y0, label.get_window_extent().y1)
        for label in axes.get_yticklabels()
        if plotted.y0 <= label.get_window_extent().y0 <= plotted.y1
    )
    assert len(ticks) >= 2
    assert all(upper[0] > lower[1] for lower, upper in itertools.pairwise(ticks))
    assert axes.get_ylim()[0] >= 0
    pyplot.close(figure)


@pytest.mark.slow
def test_a_run_killed_twice_is_one_line_with_one_curve(tmp_path):
    """Real processes, kill -9 at epochs that nobody chose: one row in the table, no epoch twice, none missing."""
    run = tmp_path / "runs" / "run"
    line = f"fit {OPTIONS} --trainer.max_epochs 40 --run_dir {run}"
    kill_behind(5, line, run)
    kill_behind(15, line, run)
    child = process(line)
    out, _ = child.communicate(timeout=200)
    assert child.returncode == 0, out
    record = RunRecord.from_directory(run)
    assert record.problems == []
    assert [row["epoch"] for row in record.history] == list(range(1, 41))
    assert len(record.summary["segments"]) == 3
    assert record.summary["minutes_lost"] > 0
    shown = subprocess.run(
        [sys.executable, "-m", "reslightning", "compare", "runs", "--format", "json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    (row,) = json.loads(shown.stdout)
    assert (row["status"], row["epoch"]) == ("finished", "40/40")
