"""Figures and the page: curves with their range, and what the best run's validation left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_curves_are_means_with_their_range():
    from reslightning.compare.figures import curves

    def record(name: str, errors: list[float], batch: int) -> RunRecord:
        rows = [{"epoch": k + 1.0, "step": 10.0 * (k + 1), "val/top1": 1 - e / 100} for k, e in enumerate(errors)]
        return RunRecord(name, name, {"arch": "x", "options": {"data.batch_size": batch}}, rows)

    runs = [record("a", [50, 20, 10], 4), record("b", [40, 30], 4)]
    ((curve,), notes) = curves([Table("title", [Group(runs, {"arch": "x"})])], "epoch")
    assert notes == ["x: the curve of 2 of its 2 runs ends at epoch 2, as the shortest of them"]
    _, notes = curves([Table("title", [Group([*runs, RunRecord("c", "c", {}, [])], {"arch": "x"})])], "epoch")
    assert notes == ["x: the curve of 2 of its 3 runs ends at epoch 2, as the shortest of them"]
    assert (curve.label, curve.x) == ("x", [1, 2])  # where both are
    assert curve.y == pytest.approx([45, 25])
    assert curve.low == pytest.approx([40, 20])
    assert curve.high == pytest.approx([50, 30])
    tables = [Table("one, same", [Group(runs[:1])]), Table("other, same", [Group(runs[1:])])]
    (first, second), _ = curves(tables, "samples")
    assert first.x == [40, 80, 120]
    assert (first.label, second.label) == ("a (one)", "b (other)")
    tables = [Table("A, x (5 images)", [Group(runs[:1])]), Table("B, x (5 images)", [Group(runs[1:])])]
    (first, _), _ = curves(tables, "epoch")
    assert first.label == "a (A)"
    assert first.colour != second.colour


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
