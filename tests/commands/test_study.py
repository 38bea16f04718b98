"""Studies through the command line: what is missing is trained, what came out is said, and no file is trusted."""

from __future__ import annotations

import shlex

import pytest
import yaml

from reslightning.cli.configs import available_configs, available_studies
from reslightning.commands import submit
from reslightning.commands.study import find_study
from reslightning.compare.study import Question, answer, read_study
from reslightning.errors import UserError
from tests.conftest import OPTIONS, summary

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
    assert "one epoch is worse than three: " in done.out
    page = (tmp_path / "studies" / "mine-tiny" / "index.html").read_text()
    assert "More epochs are better." in page
    assert page.count(" ± ") == 5  # one in words
    assert "http" not in page.replace("http-equiv", "")
    rows = (tmp_path / "studies" / "mine-tiny" / "runs.csv").read_text().splitlines()
    assert rows[0] == "run,trainer.max_epochs,seed_everything,train/top1,val/top1"
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
        assert cli(f"study {path} --dry_run").out.count("reslightning fit") >= 2 * len(study.scales)


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
        ({"grid": {"seed_everything": 3}}, "seed_everything is 3; allowed: a list of values"),
        ({"claim": 3}, "claim is 3"),
        (
            {"decide": [{"that": "x", "difference": [1, 2], "above": 0}]},
            r"allowed: two of 1, 3",
        ),
        ({"decide": [{"that": "x", "difference": [1, 3]}]}, "a number of points as above or as below"),
        ({"scales": {"tiny": {"fit": "--model.arhc x", "cost": "x"}}}, "unknown option 'model.arhc'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_before_anything_runs(cli, here, tmp_path, changed, said):
    import re

    write(tmp_path / "mine.yaml", **changed)
    found = cli("study mine.yaml --local")
    assert found.status == 2
    assert re.search(said, found.err), found.err
    assert not here


def test_mistakes(cli, tmp_path):
    assert "did you mean 'degradation'" in cli("study degradatoin").err
    write(tmp_path / "mine.yaml")
    assert "has no scale full; allowed: tiny" in cli("study mine.yaml --scale full").err
    assert "give one of them" in cli("study mine.yaml --local --site x").err
    (tmp_path / "cut.yaml").write_text("claim: [")
    assert "cut.yaml, line 1 is no study" in cli("study cut.yaml").err
    from filelock import FileLock

    (tmp_path / "studies" / "mine-tiny").mkdir(parents=True)
    with FileLock(tmp_path / "studies" / "mine-tiny" / ".lock"):
        assert "another process is at work in studies/mine-tiny" in cli("study mine.yaml").err
    with pytest.raises(UserError):
        read_study(tmp_path / "nowhere.yaml")
