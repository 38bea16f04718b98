"""Studies through the command line: what is missing is trained, what came out is said, and no file is trusted."""

from __future__ import annotations

import re
import shlex
import signal
import time

import pytest
import yaml

from reslightning.cli.configs import available_configs, available_studies
from reslightning.commands import submit
from reslightning.commands.study import find_study
from reslightning.compare.study import Question, answer, errors, read_study
from reslightning.errors import UserError
from tests.conftest import OPTIONS, process, summary

MINE = {
    "claim": "More epochs are better.",
    "source": "none",
    "metric": "val/top1",
    "grid": {"trainer.max_epochs": [1, 3], "seed_everything": [0, 1]},
    "scales": {"tiny": {"fit": f"--data tests.small.Thumbnails {OPTIONS}", "cost": "seconds"}},
    "decide": [{"that": "one epoch is worse than three", "difference": [1, 3], "above": 0}],
}


@pytest.fixture
def here(cli, monkeypatch):
    """Train in this process, and note what was."""
    trained = []

    def train(request, commands, parallel):
        trained.extend(commands)
        return max((cli(f"fit {shlex.join(command)}").status for command in commands), default=0)

    monkeypatch.setattr(submit, "train_here", train)
    return trained


def write(path, **changed):
    path.write_text(yaml.safe_dump({**MINE, **changed}, sort_keys=False))
    return path


def test_a_study_trains_what_is_missing_and_says_what_came_out(cli, here, tmp_path):
    write(tmp_path / "mine.yaml")
    listed = cli("study mine.yaml --dry_run")
    assert listed.out.startswith("tiny: 4 runs, seconds\n  reslightning fit --data tests.small.Thumbnails")
    assert not (tmp_path / "studies").exists()
    nothing = cli("study mine.yaml")
    assert "0 of 4 runs are finished; --local trains the others here" in nothing.out
    done = cli("study mine.yaml --local")
    assert done.status == 0, done.err
    assert len(here) == 4
    assert "4 of 4 runs are finished\n" in done.out
    assert re.search(r"^(not )?\w+: one epoch is worse than three \([+-]", done.out, re.MULTILINE)
    page = (tmp_path / "studies" / "mine-tiny" / "index.html").read_text()
    assert "More epochs are better." in page
    assert page.count(" ± ") == 5  # one in words
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page.replace("http-equiv", "")
    rows = (tmp_path / "studies" / "mine-tiny" / "runs.csv").read_text().splitlines()
    assert rows[0] == "run,trainer.max_epochs,seed_everything,status,train/top1,val/top1"
    assert len(rows) == 5
    again = cli("study mine.yaml --local")
    assert len(here) == 4
    assert again.out.splitlines()[-2:] == done.out.splitlines()[-2:]
    run = rows[1].partition(",")[0]
    assert summary(tmp_path / run)["status"] == "finished"


def test_every_study_is_whole_and_its_runs_are_accepted(cli):
    assert "degradation" in available_studies()
    assert not {name for name in available_configs() if "degradation" in name}
    for name in available_studies():
        path = find_study(name)
        study = read_study(path)
        assert set(study.scales) <= {"tiny", "small", "full"}
        listed = cli(f"study {path} --dry_run")
        assert listed.status == 0, listed.err
        assert listed.out.count("reslightning fit") >= (4 if study.metric else 0) * len(study.scales)
        assert listed.out.count("reslightning analyze") == (0 if study.metric else len(study.scales))


@pytest.mark.parametrize(
    ("first", "second", "limits", "verdict"),
    [
        ([5, 5.1, 4.9], [1, 1.1, 0.9], {"above": 0}, "supported"),
        ([1, 1.1, 0.9], [5, 5.1, 4.9], {"above": 0}, "not supported"),
        ([1, 3, 5], [2, 4, 5], {"above": 0}, "not decided"),
        ([1, 1.1, 0.9], [1, 1.1, 0.9], {"below": 1}, "supported"),
        ([3, 3.1, 2.9], [1, 1.1, 0.9], {"below": 1}, "not supported"),
        ([1, 3, 5], [1, 3, 5], {"below": 1}, "not decided"),
        ([2, 2], [2, 2], {"below": 1}, "supported"),
    ],
)
def test_a_verdict_is_of_the_whole_interval(first, second, limits, verdict):
    found = answer(Question("", ("a", "b"), **limits), {"a": first, "b": second})
    assert found.verdict == verdict


def test_the_interval_is_welch_s():
    from scipy.stats import ttest_ind

    first, second = [5.0, 6.5, 4.0, 7.0], [1.0, 1.2, 0.5]
    found = answer(Question("", ("a", "b"), 0), {"a": first, "b": second})
    wanted = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert answer(Question("", ("a", "b"), 0), {"a": first, "b": [1.0]}) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"clam": "x"}, r"mine.yaml, line \d+: unknown key 'clam'; did you mean 'claim'"),
        ({"scales": {"huge": {}}}, "unknown key 'huge'\nallowed: tiny, small, full"),
        ({"scales": {"tiny": {"fit": "x"}}}, r"line \d+: cost is missing"),
        ({"grid": {"seed_everything": 3}}, r"line \d+: 3; allowed: a list"),
        ({"claim": 3}, r"line \d+: 3 is no text"),
        ({"metric": "val/top2"}, r"metric is 'val/top2'; did you mean 'val/top\d' or 'val/top\d'"),
        ({"grid": {}}, "expected a mapping"),
        ({"decide": []}, "allowed: a list"),
        (
            {"decide": [{"that": "x", "difference": [1, 3], "above": "high"}]},
            "a number of points, as",
        ),
        ({"decide": [{"that": "x", "difference": [1, 3], "above": float("nan")}]}, "a number of points"),
        ({"decide": [{"that": "x", "difference": [1, 3], "above": 0, "below": 1}]}, "a number of points"),
        ({"scales": {"tiny": {"fit": ["x"], "cost": "x"}}}, r"line \d+: \['x'\] is no text"),
        ({"scales": {"tiny": {"fit": "--a 'x", "cost": "x"}}}, "fit is no command line: No closing quotation"),
        ({"scales": {"tiny": {"analyze": "deep_gp", "cost": "x"}}}, "unknown key 'analyze'"),
        ({"scales": {"tiny": {"fit": "x", "cost": "x", "grid": {"model.arch": ["a"]}}}}, "not in the study's own grid"),
        (
            {"decide": [{"that": "x", "difference": [1, 2], "above": 0}]},
            r"allowed: two of 1, 3",
        ),
        ({"decide": [{"that": "x", "difference": [1, 3]}]}, "a number of points, as"),
        (
            {"scales": {"tiny": {"fit": "--model.arhc x", "cost": "x"}}},
            r"^reslightning: mine\.yaml, line 13: unknown option 'model.arhc'",
        ),
        (
            {"grid": {"model.arhc": [1, 3]}},
            r"mine\.yaml, line 5: unknown option 'model.arhc'; did you mean 'model.arch'",
        ),
        ({"grid": {"seed_everything": [0], "trainer.max_epochs": [1, 3]}}, "allowed: two of 0"),
        ({"grid": {"trainer.max_epochs": [1, 3], "model.shortcut": ["A", "X"]}}, r"line \d+: model\.shortcut=X is not"),
    ],
)
def test_a_file_that_is_wrong_is_refused_before_anything_runs(cli, here, tmp_path, changed, said):
    write(tmp_path / "mine.yaml", **changed)
    found = cli("study mine.yaml --local")
    assert found.status == 2
    assert re.search(said, found.err), found.err
    assert not here
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_mistakes(cli, tmp_path):
    assert "did you mean 'degradation'" in cli("study degradatoin").err
    write(tmp_path / "mine.yaml")
    assert "has no scale full; allowed: tiny" in cli("study mine.yaml --scale full").err
    assert "give one of them" in cli("study mine.yaml --local --site x").err
    assert "--gpus 1 would not count without --site" in cli("study mine.yaml --gpus 1").err
    (tmp_path / "cut.yaml").write_text("claim: [")
    assert "cut.yaml, line 1 is no study" in cli("study cut.yaml").err
    (tmp_path / "twice.yaml").write_text("claim: a\nsource: b\nclaim: c\n")
    assert "twice.yaml, line 3 is no study: 'claim' is given twice" in cli("study twice.yaml").err
    (tmp_path / "empty.yaml").write_text("")
    assert "empty.yaml is no study: it is empty" in cli("study empty.yaml").err
    from filelock import FileLock

    (tmp_path / "studies" / "mine-tiny").mkdir(parents=True)
    with FileLock(tmp_path / "studies" / "mine-tiny" / ".lock"):
        assert "another process is at work in studies/mine-tiny" in cli("study mine.yaml").err
    with pytest.raises(UserError):
        read_study(tmp_path / "nowhere.yaml")


def test_a_file_that_was_changed_says_so(cli, here, tmp_path):
    write(tmp_path / "mine.yaml", grid={"trainer.max_epochs": [1, 2], "seed_everything": [0]}, decide=[ONE])
    cli("study mine.yaml --local")
    write(tmp_path / "mine.yaml", grid={"trainer.max_epochs": [1, 3], "seed_everything": [0]}, decide=[OTHER])
    changed = cli("study mine.yaml")
    page = (tmp_path / "studies" / "mine-tiny" / "index.html").read_text()
    old = "1 runs were made with an older version of mine.yaml, and do not count: runs/"
    asked = "the questions were changed when results were there; they were: two: 2 - 1 below 0 points"
    for line in (old, asked):
        assert line in changed.out
        assert line in page
    assert "1 of 2 runs are finished" in changed.out
    again = cli("study mine.yaml")  # and does not forget it
    assert again.out == changed.out
    write(tmp_path / "mine.yaml", grid={"trainer.max_epochs": [4, 5], "seed_everything": [0]}, decide=[LAST])
    none = cli("study mine.yaml").out
    assert none.startswith("2 runs were made with an older version of mine.yaml, and do not count: runs/")
    assert asked in none
    assert "0 of 2 runs are finished" in none


ONE = {"that": "two", "difference": [2, 1], "below": 0}
LAST = {"that": "two", "difference": [4, 5], "below": 20}
OTHER = {"that": "two", "difference": [3, 1], "below": 20}


def test_a_lost_training_counts_as_chance_and_what_failed_otherwise_does_not_count(cli, here, tmp_path):
    grid = {"model.optim.lr": [0.01, 1e30], "trainer.max_epochs": [1], "seed_everything": [0]}
    question = {"that": "x", "difference": [1e30, 0.01], "above": 0}
    write(tmp_path / "mine.yaml", grid=grid, decide=[question])
    found = cli("study mine.yaml --local")
    assert found.status == 0, found.err
    assert "2 of 2 runs are finished" in found.out
    assert "1 of 2 runs ended with a loss that is not finite: they count as chance" in found.out
    assert ">90.00 %<" in (tmp_path / "studies" / "mine-tiny" / "index.html").read_text()
    cli("study mine.yaml --local")
    assert len(here) == 2  # which is not tried again
    lost = next(path for path in (tmp_path / "runs").iterdir() if summary(path)["status"] == "failed")
    assert summary(lost)["diverged"] is True
    text = (lost / "summary.json").read_text()
    (lost / "summary.json").write_text(text.replace('"diverged": true', '"diverged": false'))
    assert "1 of 2 runs are finished" in cli("study mine.yaml").out


def test_an_analysis_is_a_study(cli, tmp_path):
    scales = {"tiny": {"analyze": "gradients --model.arch plain8,resnet8 --batch_size 4", "cost": "seconds"}}
    content = {"claim": "Gradients flow.", "source": "none", "scales": scales}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert cli("study mine.yaml --dry_run").out == (
        "tiny: 1 run, seconds\n  reslightning analyze gradients --model.arch plain8,resnet8 --batch_size 4\n"
    )
    assert cli("study mine.yaml").out == "--local measures it here: seconds\n"
    done = cli("study mine.yaml --local")
    assert done.status == 0, done.err
    assert "plain8: 3 blocks" in done.out
    page = (tmp_path / "studies" / "mine-tiny" / "index.html").read_text()
    assert "plain8: 3 blocks" in page
    assert page.count("data:image/png;base64,") == 1
    assert "trains nothing: --local measures it here" in cli("study mine.yaml --site x").err
    scales["tiny"]["analyze"] = "gradeints"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert re.search(r"mine\.yaml, line 4: .*did you mean 'gradients'", cli("study mine.yaml --local").err)


def test_errors_are_of_finished_runs():
    class Run:
        def __init__(self, status, top1, diverged=False):
            self.summary = {"status": status, "classes": 4, "diverged": diverged}
            self.status, self.last = status, {"val/top1": top1}

    runs = {"a": [Run("finished", 0.75), Run("running", 0.5), Run("failed", 0.5), Run("failed", 0.5, True)], "b": []}
    assert errors("val/top1", runs) == {"a": [25.0, 75.0], "b": []}


@pytest.mark.slow
def test_a_study_that_is_stopped_goes_on_with_what_is_left(cli, tmp_path):
    write(tmp_path / "mine.yaml", grid={"trainer.max_epochs": [60, 2], "seed_everything": [0]}, decide=[LONG])
    line = "study mine.yaml --local"
    study = process(line)
    begun = lambda: [*tmp_path.glob("runs/*/checkpoints/last.ckpt")]  # noqa: E731
    while not begun():
        assert study.poll() is None, study.communicate()
        time.sleep(0.1)
    study.send_signal(signal.SIGTERM)
    out, _ = study.communicate(timeout=60)
    assert study.returncode == 75, out
    (run,) = (tmp_path / "runs").iterdir()
    assert summary(run)["status"] == "preempted"
    reached = summary(run)["global_step"]
    assert 0 < reached < 60 * 5
    again = process(line)
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0, out
    assert "2 of 2 runs are finished" in out
    assert [one["from_step"] for one in summary(run)["segments"]] == [0, reached]
    assert cli(line).out.startswith("2 of 2 runs are finished")


LONG = {"that": "more is better", "difference": [60, 2], "below": 0}
