"""A number recorded of a training is what ran: rates of the optimizer, counted samples, another run's checkpoint."""

import json
import shlex
from pathlib import Path

import pytest
import torch

from tests.conftest import OPTIONS, SMALL, assert_same_bits, assert_same_result, checkpoint, rows, summary
from tests.train.test_preemption import STRIKE

# Three steps of 64 digits an epoch, at a rate that stays.
TINY = SMALL.replace("warmup 1", "warmup 0 --model.schedule.name constant").replace("256", "64")
TINY += " --trainer.limit_train_batches 3 --model.optim.lr 0.1"
GROUPS = "--model.optim.decay_norm_and_bias false"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Runs of two epochs to go on from, each made when first asked for."""
    made = {}

    def make(cli, extra: str = ""):
        if extra not in made:
            made[extra] = tmp_path_factory.mktemp("other") / "run"
            result = cli(f"fit {TINY} --trainer.max_epochs 2 --run_dir {made[extra]} {extra}")
            assert result.status == 0, result.err
        return made[extra]

    return make


def group(run) -> dict:
    return checkpoint(run)["optimizer_states"][0]["param_groups"][0]


@pytest.mark.parametrize(
    ("extra", "name", "value", "momentum"),
    [
        ("--model.optim.lr 0.001", "lr", 0.001, 0.9),
        ("--model.optim.momentum 0.5", "momentum", 0.5, 0.5),
        ("--model.optim.weight_decay 0.02", "weight_decay", 0.02, 0.9),
        ("--model.optim.nesterov false", "nesterov", False, 0.9),
        ("--model.optim.lr 0.2 --model.optim.lr_batch 256", "lr", 0.05, 0.9),
    ],
)
def test_options_count_where_another_run_s_checkpoint_is_gone_on_from(
    cli, other, tmp_path, extra, name, value, momentum
):
    before = other(cli)
    line = f"fit {TINY} --trainer.max_epochs 3 --ckpt_path {before}/checkpoints/last.ckpt --run_dir run {extra}"
    result = cli(line)
    assert result.status == 0, result.err
    assert group(tmp_path / "run")[name] == value
    (row,) = rows(tmp_path / "run")
    assert float(row["momentum"]) == momentum
    if name in row:
        assert float(row[name]) == value
    assert (row["epoch"], row["step"], row["samples"]) == ("3", "9", "576")


def test_another_run_s_checkpoint_gives_weights_and_moments(cli, other, tmp_path):
    """With the same options, going on is what training longer at once would have been."""
    before = other(cli)
    line = f"fit {TINY} --trainer.max_epochs 3 --run_dir"
    assert cli(f"{line} whole").status == 0
    assert cli(f"{line} longer --ckpt_path {before}/checkpoints/last.ckpt").status == 0
    one, other_one = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "longer")
    for key in ("state_dict", "optimizer_states"):
        assert_same_bits(one[key], other_one[key])
    assert rows(tmp_path / "longer") == rows(tmp_path / "whole")[2:]


def test_the_schedule_goes_on_from_the_checkpoint_s_step_and_from_a_stop_of_its_own(cli, other, tmp_path):
    line = f"fit {TINY} --model.schedule.name linear --model.optim.lr 0.4 --trainer.max_epochs 4 --ckpt_path "
    line += f"{other(cli)}/checkpoints/last.ckpt --run_dir"
    assert cli(f"{line} reference").status == 0
    third, fourth = rows(tmp_path / "reference")
    assert float(third["lr"]) == 0.4 * (1 - 8 / 12)
    assert float(fourth["lr"]) == 0.4 * (1 - 11 / 12)
    for step, place in ((7, "train"), (12, "val")):
        strike = STRIKE.format(mark=tmp_path / place, step=step, place=place, name="SIGTERM")
        assert cli(f"{line} {place}-run {strike}").status == 75
        assert cli(f"{line} {place}-run {strike}").status == 0
        assert_same_result(tmp_path / f"{place}-run", tmp_path / "reference")


@pytest.mark.parametrize(
    ("made", "extra", "said"),
    [
        ("", "--model.optim.name adamw", "the state of sgd over"),
        ("--model.optim.name adamw", "", "the state of adamw over"),
        ("", GROUPS, "which this command's sgd over 8 + "),
        (GROUPS, "", " + "),
        ("", "--model.optim.body_lr 0.1", "--model.weights"),
        ("", "--model.frozen_stages 1", "model.frozen_stages as they were there"),
        ("", "--trainer.max_epochs 2", "allowed: more than 2"),
        ("--model.ema_decay 0.9", "", "--model.ema_decay 0.9"),
    ],
)
def test_a_state_that_cannot_be_taken_is_refused(cli, other, tmp_path, made, extra, said):
    before = other(cli, made)
    line = f"fit {TINY} --trainer.max_epochs 3 --ckpt_path {before}/checkpoints/last.ckpt --run_dir run {extra}"
    result = cli(line)
    assert result.status == 2
    assert said in result.err
    assert len(result.err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_trained_longer_by_the_command_that_its_refusal_names(cli, tmp_path):
    line = f"fit {TINY} --trainer.max_epochs 1 --run_dir 'a run'"
    assert cli(line).status == 0
    refused = cli("fit --run_dir 'a run' --trainer.max_epochs 2")
    assert refused.status == 2
    assert "trainer.max_epochs: 1 there, 2 given" in refused.err
    command = refused.err.splitlines()[-1].partition("reslightning ")[2]
    assert shlex.split(command)[-2:] == ["--trainer.max_epochs", "2"]
    longer = cli(command)
    assert longer.status == 0, longer.err
    assert "continues behind epoch 1, at step 3" in longer.out
    assert summary(tmp_path / "a run")["epoch"] == 1
    assert "To train it longer" not in cli("fit --run_dir 'a run' --model.optim.lr 0.3").err


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_rates_that_callbacks_change_are_seen(cli, tmp_path):
    averaging = "--trainer.callbacks+=StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.025"
    averaging += " --trainer.callbacks.swa_epoch_start 2 --trainer.callbacks.annealing_epochs 1"
    result = cli(f"fit {TINY} --trainer.max_epochs 3 --run_dir averaged {averaging}")
    assert result.status == 0, result.err
    assert [float(row["lr"]) for row in rows(tmp_path / "averaged")][::2] == [0.1, 0.025]
    other = "--trainer.callbacks+=tests.observers.Turn --trainer.callbacks.values '{momentum: 0.3, weight_decay: 0.01}'"
    assert cli(f"fit {TINY} --trainer.max_epochs 1 --run_dir turned {other}").status == 0
    (row,) = rows(tmp_path / "turned")
    assert (float(row["lr"]), float(row["momentum"]), float(row["weight_decay"])) == (0.1, 0.3, 0.01)


@pytest.mark.parametrize(
    ("extra", "samples", "steps"),
    [
        ("--trainer.accumulate_grad_batches 2", 96, 2),
        ("--trainer.accumulate_grad_batches 4", 48, 1),
        ("--trainer.limit_train_batches 0.1", 128, 2),
        ("--trainer.accumulate_grad_batches 8 --trainer.limit_train_batches 0.05", 64, 1),
        ("--trainer.limit_train_batches 5 --trainer.accumulate_grad_batches 2", 160, 3),
    ],
)
def test_samples_are_counted(cli, tmp_path, extra, samples, steps):
    result = cli(f"fit {TINY} --trainer.max_epochs 2 --run_dir run {extra}")
    assert result.status == 0, result.err
    assert [int(row["samples"]) for row in rows(tmp_path / "run")] == [samples, 2 * samples]
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == [steps, 2 * steps]
    assert f"{steps} steps an epoch" in result.out


def test_samples_of_a_run_that_an_older_version_began_go_on(cli, tmp_path):
    strike = STRIKE.format(mark=tmp_path / "mark", step=4, place="train", name="SIGTERM")
    line = f"fit {TINY} --trainer.max_epochs 2 --run_dir run {strike}"
    assert cli(line).status == 75
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    for new in ("samples_trained", "stepped", "last_validation"):
        del content[new]
    torch.save(content, path)
    assert cli(line).status == 0
    assert [int(row["samples"]) for row in rows(tmp_path / "run")] == [192, 384]
    assert [float(row["lr"]) for row in rows(tmp_path / "run")] == [0.1, 0.1]


def test_multiply_adds_are_one_number_everywhere(cli):
    run = "run"
    assert cli(f"fit {OPTIONS} --trainer.max_epochs 1 --trainer.limit_train_batches 1 --run_dir run").status == 0
    adds = summary(Path(run))["multiply_adds"]
    (found,) = json.loads(cli(f"compare {run} --columns multiply_adds --format json").out)
    assert found["multiply_adds"] == adds
    assert f"{adds / 1e9:.3f}e9" in cli("models resnet8").out
    refused = cli(f"compare {run} --columns flops")
    assert refused.status == 2
    assert "multiply_adds" in refused.err
    assert "FLOP" not in cli(f"compare {run}").out
