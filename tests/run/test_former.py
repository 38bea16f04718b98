"""Runs that the version before made: a finished one is shown, an unfinished one goes on; stored in tests/former."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import rows, summary

FORMER = Path(__file__).parents[1] / "former"
LINE = (
    f"-c {FORMER}/digits.yaml --model.arch resnet8 --data.batch_size 256 --model.schedule.warmup 1 "
    "--wandb.mode disabled --model.optim.momentum 0 --model.optim.nesterov false"
)


@pytest.fixture
def runs():
    """Unfinished after 7 of 10 steps, and finished after an epoch: their names are of an identity that counted more."""
    shutil.copytree(FORMER, "runs")
    return Path("runs/digits-resnet8-0-70322cef"), Path("runs/digits-resnet8-0-8a466809")


def test_an_unfinished_one_goes_on(cli, runs):
    unfinished, _ = runs
    done = cli(f"fit {LINE} --trainer.max_epochs 2")
    assert done.status == 0, done.err
    assert f"{unfinished}: continues behind epoch 1, at step 7" in done.out
    assert [row["epoch"] for row in rows(unfinished)] == ["1", "2"]
    assert summary(unfinished)["global_step"] == 10
    assert summary(unfinished)["fingerprint"]["data"]["classes"][0] == "0"
    assert "nothing to do" in cli(f"fit {LINE} --trainer.max_epochs 2").out


def test_a_finished_one_is_shown(cli, runs):
    _, finished = runs
    assert f"{finished}: nothing to do" in cli(f"fit {LINE} --trainer.max_epochs 1").out
    assert "88.30" in cli("compare runs --filter status=finished --columns run,top1").out
    assert f"{finished}: nothing to do" in cli(f"fit --run_dir {finished}").out


def test_its_directory_takes_no_other_options(cli, runs):
    unfinished, _ = runs
    refused = cli(f"fit {LINE} --trainer.max_epochs 2 --run_dir {unfinished} --model.label_smoothing 0.1")
    assert refused.status == 2
    assert "model.label_smoothing: 0.0 there, 0.1 given" in refused.err


def test_its_weights_are_evaluated(cli, runs):
    unfinished, _ = runs
    done = cli(f"test --run_dir {unfinished}")
    assert done.status == 0, done.err
    assert "Digits test, 359 images" in done.out
