"""compare: tables that equal what is computed by hand, cut and foreign files, many runs, figures and the page."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reslightning.errors import UserError
from tests.conftest import SMALL


def made(folder: Path, name: str, *, epochs: int = 3, top1: float = 0.9, **facts) -> Path:
    """Write the files of a run that compare reads, as a training leaves them."""
    run = folder / name
    run.mkdir(parents=True)
    lines = ["epoch,step,train/loss,train/top1,val/loss,val/top1,val/top5,val/n_samples,lr,images_per_second"]
    for epoch in range(1, epochs + 1):
        share = top1 * (epoch / epochs)
        lines.append(f"{epoch},{10 * epoch},{2 / epoch!r},{share * 0.9!r},{1 / epoch!r},{share!r},0.99,359,0.1,1000.0")
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    last = {"epoch": epochs, "train/loss": 2 / epochs, "val/top1": top1, "val/top5": 0.99, "val/loss": 1 / epochs}
    options = {"data": "CIFAR10", "model.arch": "resnet20", "data.batch_size": 128, "model.optim.lr": 0.1}
    summary = {
        "format": 1,
        "run_id": name,
        "identity": "00000000",
        "status": "finished",
        "arch": "resnet20",
        "shortcut": None,
        "version": None,
        "dataset": "CIFAR10",
        "protocol": "center",
        "val_source": "test",
        "metrics": last,
        "best": {"val/top1": top1, "epoch": epochs},
        "epoch": epochs,
        "epochs": epochs,
        "global_step": 10 * epochs,
        "parameters": 269722,
        "multiply_adds": 40551424,
        "images_per_second": 1000.0,
        "seconds": 60.0,
        "heartbeat": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": options | facts.pop("options", {}),
        "segments": [{"world_size": 4, "from_step": 0, "to_step": 10 * epochs, "seconds": 60.0}],
    }
    (run / "summary.json").write_text(json.dumps(summary | facts, indent=2) + "\n")
    return run


def records(cli, line: str) -> list[dict]:
    result = cli(f"compare {line} --format json")
    assert result.status == 0, result.err
    return json.loads(result.out)


def test_seeds_are_grouped_as_by_hand(cli, tmp_path):
    """Three networks with two seeds each, really trained; a copied directory counts once."""
    errors: dict[str, list[float]] = {}
    for arch in ("resnet8", "plain8", "resnet14"):
        for seed in (0, 1):
            small = SMALL.replace("resnet8", arch) + " --trainer.limit_train_batches 2"
            assert cli(f"fit {small} --seed_everything {seed} --trainer.max_epochs 1").status == 0
    runs = sorted(Path("runs").iterdir())
    assert len(runs) == 6
    for run in runs:
        with (run / "metrics.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        errors.setdefault(run.name.split("-")[1], []).append(100 * (1 - float(row["val/top1"])))
    shutil.copytree(runs[0], "runs/copied")
    result = cli("compare runs --by arch --format csv --columns arch,top1,seed")
    rows = {row["arch"]: row for row in csv.DictReader(io.StringIO(result.out))}
    assert len(rows) == 3
    for arch, (first, second) in errors.items():
        assert rows[arch]["n"] == "2"
        assert float(rows[arch]["top1"]) == statistics.fmean([first, second])
        assert float(rows[arch]["top1_std"]) == statistics.stdev([first, second])
        # Student's t with one degree of freedom, 97.5 %: 12.7062
        assert float(rows[arch]["top1_interval95"]) == pytest.approx(12.7062 * abs(first - second) / 2, rel=1e-4)
    assert "is a copy of" in result.err
    assert "runs/copied" in result.err
    shown = cli("compare")
    assert shown.status == 0
    best = min(error for pair in errors.values() for error in pair)
    assert f"{best:.2f}" in shown.out.splitlines()[4]
    assert "Thumbnails, center, validated on the test set" in shown.out
    page = cli("compare --html page.html --by arch")
    assert page.status == 0, page.err
    assert Path("page.html").stat().st_size < 5e6
    # what a finished training left for the page
    with (runs[1] / "evaluations" / "val-confusion.csv").open(newline="") as file:
        counts = [list(map(int, row[1:])) for row in list(csv.reader(file))[1:]]
    assert sum(map(sum, counts)) == 359
    hits = sum(counts[k][k] for k in range(10))
    assert hits / 359 == json.loads((runs[1] / "summary.json").read_text())["metrics"]["val/top1"]
    assert (runs[1] / "evaluations" / "val-worst.png").read_bytes()[:4] == b"\x89PNG"


def test_the_published_value_stands_beside_the_same_protocol(cli, tmp_path):
    made(tmp_path / "runs", "a", top1=0.92, n_samples={"test": 10_000})
    part = made(tmp_path / "runs", "f", n_samples={"test": 10_000})
    for run, count in ((part.with_name("a"), "10000"), (part, "359")):  # limit_val_batches leaves the second
        rows = (run / "metrics.csv").read_text()
        (run / "metrics.csv").write_text(rows.replace(",359,", f",{count},"))
    made(tmp_path / "runs", "b", top1=0.93, protocol="center-flip")
    made(tmp_path / "runs", "c", top1=0.94, shortcut="B")
    made(tmp_path / "runs", "d", n_samples={"test": 500})
    made(tmp_path / "runs", "e", val_source="held-out")
    rows = {row["run"]: row for row in records(cli, "runs --columns run,top1,published,difference")}
    assert rows["a"]["published"] == 8.75
    assert rows["a"]["difference"] == pytest.approx(8.0 - 8.75)
    assert rows["b"]["published"] is None
    assert [rows[name]["published"] for name in "cdef"] == [None] * 4


def test_ranking_by_best_needs_held_out_images(cli, tmp_path):
    for name, source in (("a", "test"), ("b", "held-out")):
        run = made(tmp_path / "runs", name, val_source=source)
        with (run / "metrics.csv").open("a") as file:
            file.write("4,40,0.5,0.5,0.5,0.5,0.99,359,0.1,1000.0\n")
        facts = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(facts | {"epoch": 4, "metrics": {"epoch": 4, "val/top1": 0.5}}))
    rows = {row["run"]: row for row in records(cli, "runs --columns run,top1,of,best_top1,last_top1")}
    assert (rows["a"]["top1"], rows["a"]["of"]) == (50.0, "last")
    assert (rows["b"]["top1"], rows["b"]["of"]) == (pytest.approx(10.0), "best")
    out = cli("compare runs").out
    assert out.count("validated on") == 2  # not ranked together


def test_the_last_validated_epoch_is_the_result(cli, tmp_path):
    """With validation every second epoch, the last row has none."""
    run = made(tmp_path / "runs", "a", top1=0.9)
    with (run / "metrics.csv").open("a") as file:
        file.write("4,40,0.5,0.95,,,,,0.1,1000.0\n")
    facts = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(facts | {"epoch": 4, "metrics": {"epoch": 4, "train/top1": 0.95}}))
    result = cli("compare runs --columns run,top1,last_top1,train_top1,epoch --format json")
    (row,) = json.loads(result.out)
    assert row["top1"] == row["last_top1"] == pytest.approx(10.0)
    assert row["train_top1"] == pytest.approx(5.0)
    assert row["epoch"] == "4/3"
    assert result.err == ""


def test_a_statistic_says_of_how_many_runs_it_is(cli, tmp_path):
    for name, top1 in (("a", 0.90), ("b", 0.92), ("c", float("nan"))):
        made(tmp_path / "runs", name, top1=top1, status="running" if name == "b" else "finished")
    out = cli("compare runs --by arch --columns top1,published").out
    assert "9.00 ± 1.41 (95 %: ± 12.71) (n=2 of 3)" in out
    assert "resnet20: 1 of 3 not finished: b (running, 3/3)" in out
    line = "compare runs --by arch --format csv --columns top1,multiply_adds --sort n"
    (row,) = csv.DictReader(io.StringIO(cli(line).out))
    assert (row["n"], row["top1_n"], row["multiply_adds"]) == ("3", "2", "40551424")
    (run,) = records(cli, "runs --by arch --columns top1")
    assert (run["top1"]["n"], run["top1"]["of"]) == (2, 3)


def test_text_sorts_by_the_numbers_in_it(cli, tmp_path):
    for name, epochs in (("resnet110", 9), ("resnet20", 10), ("resnet56", 100)):
        made(tmp_path / "runs", name, epochs=epochs)
    assert [row["run"] for row in records(cli, "runs --sort epoch")] == ["resnet110", "resnet20", "resnet56"]
    assert [row["run"] for row in records(cli, "runs --sort run")] == ["resnet20", "resnet56", "resnet110"]
    assert [row["run"] for row in records(cli, "runs --filter 'epoch>9' --sort run")] == ["resnet20", "resnet56"]
    assert [row["run"] for row in records(cli, "runs --sort -epoch")] == ["resnet56", "resnet20", "resnet110"]


def test_other_images_are_not_ranked_together(cli, tmp_path):
    """Data sets of one name: other classes, or another number of validation images."""
    for name, classes, images in (("a", 10, 359), ("b", 100, 359), ("c", 10, 50), ("d", 10, 359)):
        run = made(tmp_path / "runs", name, dataset="ImageFolder", classes=classes)
        rows = (run / "metrics.csv").read_text()
        (run / "metrics.csv").write_text(rows.replace(",359,", f",{images},"))
    sections = {row["section"]: row["n"] for row in records(cli, "runs --by dataset")}
    assert sections == {
        "ImageFolder with 10 classes, center, validated on the test set (359 images)": 2,
        "ImageFolder with 10 classes, center, validated on the test set (50 images)": 1,
        "ImageFolder with 100 classes, center, validated on the test set (359 images)": 1,
    }


def test_odd_names(cli, tmp_path):
    """What Markdown, LaTeX, HTML and matplotlib have a meaning for."""
    names = ["a|b", "$x^2$", "a$\\foo$b", "_hidden", "x&y_z", "</script><b>"]
    for name in names:
        made(tmp_path / "runs", str(names.index(name)), run_id=name, arch=name, options={"model.arch": name})
    line = "compare runs --by arch --columns top1"
    assert cli(f"{line} --plot fig.png --html page.html").status == 0
    assert "</script><b>" not in Path("page.html").read_text()
    assert r"a\|b" in cli(f"{line} --format markdown").out
    assert r"x\&y\_z" in cli(f"{line} --format latex").out


def test_what_is_unknown_is_not_ranked(cli, tmp_path):
    made(tmp_path / "runs", "known", top1=0.5)
    for name, top1 in (("y", 0.99), ("x", 0.9)):
        run = made(tmp_path / "runs", name, top1=top1)
        facts = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "dataset"}))
    rows = records(cli, "runs")
    assert [row["run"] for row in rows] == ["known", "x", "y"]
    assert "not ranked" in rows[1]["section"]
    assert len(records(cli, "runs --by arch")) == 3  # and has no mean


def test_runs_of_one_group_show_its_keys(cli, tmp_path):
    for number, rate in enumerate((0.1, 0.2)):
        made(tmp_path / "runs", f"r{number}", group="grid-1", options={"model.optim.lr": rate, "seed_everything": 0})
    assert [row["model.optim.lr"] for row in records(cli, "runs --sort run")] == [0.1, 0.2]
    made(tmp_path / "runs", "other", options={"model.optim.lr": 0.3})
    assert "model.optim.lr" not in records(cli, "runs")[0]


def test_filters_columns_and_differences(cli, tmp_path):
    made(tmp_path / "runs", "a", top1=0.90, options={"model.optim.lr": 0.1})
    made(tmp_path / "runs", "b", top1=0.92, options={"model.optim.lr": 0.2})
    made(tmp_path / "runs", "c", top1=float("nan"), arch="resnet32", options={"model.arch": "resnet32"})
    assert [row["run"] for row in records(cli, "runs")] == ["b", "a", "c"]
    assert [row["run"] for row in records(cli, "runs --sort -top1")] == ["a", "b", "c"]
    assert [row["run"] for row in records(cli, "runs --filter 'top1<9'")] == ["b"]
    assert [row["run"] for row in records(cli, "runs --filter arch!=resnet20")] == ["c"]
    assert [row["run"] for row in records(cli, "runs --filter model.optim.lr>=0.2 status=finished")] == ["b"]
    assert records(cli, "runs --columns run,model.optim.lr --filter arch=resnet20")[0]["model.optim.lr"] == 0.2
    assert [row["run"] for row in records(cli, "runs --filter arch=resnet20 --filter 'top1<9'")] == ["b"]
    assert [row["run"] for row in records(cli, "runs --sort -run")] == ["c", "b", "a"]
    assert [row["run"] for row in records(cli, "runs --filter top1=10")] == ["a"]  # 9.999999999999998
    made(tmp_path / "more", "d", options={"data.mean": [0.1, 0.2]})
    made(tmp_path / "more", "e", options={"model.optim.lr": 0.100001})
    assert {"0.1", "0.100001"} <= set(cli("compare more --diff").out.split())
    assert len(records(cli, "more --filter data.mean=[0.1,0.2]")) == 1
    assert records(cli, "runs --columns 'run, arch'")[0].keys() == {"section", "run", "arch"}
    two = records(cli, "runs --by arch,model.optim.lr --columns top1")
    assert [(row["arch"], row["model.optim.lr"], row["n"]) for row in two] == [
        ("resnet20", "0.2", 1),
        ("resnet20", "0.1", 1),
        ("resnet32", "0.1", 1),
    ]
    (first, *_) = records(cli, "runs --diff")
    assert first.keys() == {"section", "run", "top1", "model.arch", "model.optim.lr"}
    assert cli("compare runs --diff --filter run=a").err == "the runs' options are the same\n"
    by = cli("compare runs --by arch --columns top1").out
    assert "resnet20: its runs differ in model.optim.lr" in by
    for line, message in (
        ("--columns run,topp1", "did you mean 'top1'"),
        ("--filter archs=x", "did you mean 'arch'"),
        ("--filter top1", "is no condition"),
        ("--filter status>f", "status is text (finished); allowed: = and !="),
        ("--filter 'parameters<1M'", "parameters is a number (269722); allowed: a number"),
        ("--filter parameters!=1M", "allowed: a number"),
        ("--group x", "no run is of the group 'x'"),
        ("--filter 'top1<0'", "none of the 3 runs is left by the filters: top1<0"),
        ("--sort top", "unknown column 'top'"),
        ("--by modell.arch", "did you mean 'model.arch'"),
        ("--format txt", "invalid choice: 'txt'"),
        ("--plot x.gif", "allowed: .png, .svg, .pdf"),
    ):
        result = cli(f"compare runs {line}")
        assert result.status == 2, line
        assert message in result.err


def test_a_terminal_shows_the_columns_that_fit(cli, tmp_path, monkeypatch):
    made(tmp_path / "runs", "a")
    made(tmp_path / "runs", "b", dataset="CIFAR100", options={"model.optim.lr": 1.23456789012345})
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    for line in ("compare runs", "compare runs --by arch"):
        result = cli(line)
        rows = [row for row in result.out.splitlines() if row.startswith("--")]
        assert max(map(len, rows)) <= 60 < len(rows[0]) + 15
        assert "left out for the terminal's width: " in result.err
        assert "gpu_hours" not in result.err  # which no run has
        assert "seconds (--columns chooses)" in result.err
    monkeypatch.setenv("COLUMNS", "300")
    assert "left out" not in cli("compare runs").err


@pytest.mark.parametrize("style", ["table", "markdown", "latex", "csv"])
def test_formats(cli, tmp_path, style):
    made(tmp_path / "runs", "a", top1=0.9167)
    out = cli(f"compare runs --format {style} --columns run,top1,parameters").out
    assert ("8.33" in out) or ("8.329" in out)
    marks = {"table": "----", "markdown": "|--", "latex": r"\begin{tabular}", "csv": "section,run,top1,parameters"}
    assert marks[style] in out


ODD = """AttributeError("'NoneType' object has no attribute 'get'")"""


def test_wandb_shaped_like_its_api(cli, tmp_path, monkeypatch):
    """Against a stand-in for wandb.Api, which is all of it that can be reached here."""
    from reslightning.track import wandb_runs
    from tests.wandb_standin import Api

    records, notes = wandb_runs.read_project("team/project", api=Api(1000))
    assert (len(records), notes) == (999, ["skipped wandb:team/project/id9: it is not a run of reslightning's: " + ODD])
    assert [row["epoch"] for row in records[5].history] == [1, 2]
    assert len({record.summary["run_id"] for record in records}) == 999
    assert records[7].history[1]["val/top1"] == pytest.approx(0.5 + 7 / 4000 + 0.1)
    assert records[7].summary["arch"] == "resnet20"
    some, (_, problem) = wandb_runs.read_project("team/project", api=Api(1000, fails_at=130))
    assert len(some) == 129
    assert "only 129 runs were read before the server failed: 502" in problem
    with pytest.raises(UserError, match="W&B did not give the runs of team/project: 502"):
        wandb_runs.read_project("team/project", api=Api(1000, fails_at=0))
    with pytest.raises(UserError, match="no runs in team/none"):
        wandb_runs.read_project("team/none", api=Api(0))
    grouped, _ = wandb_runs.read_project("team/project", group="g1", api=Api(1000))
    assert len(grouped) == 499
    for path in ("", "team", "a//b", "a/b/c"):
        with pytest.raises(UserError, match="expected wandb:ENTITY/PROJECT"):
            wandb_runs.read_project(path, api=Api(1))
    monkeypatch.setattr("wandb.Api", lambda: Api(9))
    columns = "run,top1,status,epoch,seconds,gpu_hours,segments"
    result = cli(f"compare wandb:team/project --columns {columns} --format json --plot fig.svg --over iterations")
    assert result.status == 0, result.err
    *ranked, foreign = json.loads(result.out)
    assert [row["run"] for row in ranked] == [f"run-{number}" for number in (8, 5, 4, 3, 2, 1, 0, 7)]
    rows = {row["run"]: row for row in ranked}
    assert rows["run-2"]["top1"] == pytest.approx(100 * (0.3 - 2 / 4000))
    assert (rows["run-2"]["seconds"], rows["run-2"]["gpu_hours"]) == (60, 2 * 60 / 3600)  # of the end, not the start
    # Of a segment that has not ended, W&B has but the beginning.
    assert (rows["run-4"]["status"], rows["run-4"]["seconds"], rows["run-4"]["gpu_hours"]) == ("running", None, None)
    assert rows["run-5"]["status"] == "lost"
    assert (foreign["run"], foreign["top1"]) == ("run-6", None)
    assert "not ranked" in foreign["section"]
    assert "id6: it was not recorded by this package" in result.err
    assert records[7].history[1]["step"] == 20


MEASURE = """
import re, sys
from pathlib import Path
from reslightning.__main__ import main
status = main(sys.argv[1:])
assert not {"torch", "lightning", "wandb", "torchvision", "jinja2", "bokeh", "matplotlib"} & sys.modules.keys()
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1000, file=sys.stderr)
sys.exit(status)
"""


def test_a_thousand_runs(tmp_path):
    for number in range(1000):
        made(tmp_path / "runs", f"run-{number:04}", epochs=200, top1=0.8 + number / 10_000, seed=number % 5)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, "compare", str(tmp_path / "runs")], capture_output=True, text=True
    )
    seconds, memory = time.monotonic() - started, int(done.stderr.split()[-1])
    print(f"{seconds:.1f} s, {memory} MB")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1004
    assert "run-0999" in done.stdout.splitlines()[4]
    assert seconds < 10
    assert memory < 1000


@pytest.mark.parametrize("option", ["--log", "--over samples", "--log --html page.html"])
def test_options_of_the_curves_alone_are_refused(cli, finished, tmp_path, option):
    result = cli(f"compare {finished(cli)} {option}")
    assert result.status == 2
    assert f"{option.split()[0]} would not count" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "files", ["--plot a.png --html a.png", "--plot a.png --html no/a.html", "--plot no/a.png", "--html {run}"]
)
def test_figure_and_page_are_written_both_or_none(cli, finished, tmp_path, files):
    run = finished(cli)
    result = cli(f"compare {run} {files.format(run=run)}")
    assert result.status == 2
    assert "Give another" in result.err
    assert result.out == ""
    assert list(tmp_path.iterdir()) == []
