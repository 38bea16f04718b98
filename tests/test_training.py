"""Runs through the command line: their directory, their end, and how they go on."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from reslightning.lock import Lock
from tests.conftest import SMALL, assert_same_bits, assert_same_result, checkpoint, process, rows

NOTE = "--trainer.callbacks+=tests.observers.Note --trainer.callbacks.file {file}"
STRIKE = (
    "--trainer.callbacks+=tests.observers.Strike --trainer.callbacks.mark {mark} "
    "--trainer.callbacks.step {step} --trainer.callbacks.place '{place}' --trainer.callbacks.name {name}"
)


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run of three epochs for each kind of weights, made when first asked for."""
    runs: dict[str, Path] = {}

    def make(cli, extra: str = "") -> Path:
        if extra not in runs:
            run = tmp_path_factory.mktemp("finished") / "run"
            assert cli(f"fit {SMALL} --trainer.max_epochs 3 --run_dir {run} {extra}").status == 0
            runs[extra] = run
        return runs[extra]

    return make


def test_a_run_leaves_what_the_design_says(cli, tmp_path):
    line = "fit --model.arch resnet8 --data.batch_size 256 --trainer.max_epochs 2"
    result = cli(line)
    assert result.status == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("digits-resnet8-0-")
    found = summary(run)
    assert found["status"] == "finished"
    assert (found["epoch"], found["global_step"], found["world_size"]) == (2, 10, 1)
    assert found["n_samples"] == {"train": 1438, "val": 359, "test": 359}
    assert found["val_source"] == "test"
    assert found["run_id"]
    assert found["segments"][0].keys() == {
        *("started", "job", "host", "world_size", "from_step", "to_step", "commit", "dirty"),
    }
    assert (found["segments"][0]["from_step"], found["segments"][0]["to_step"]) == (0, 10)
    with (run / "metrics.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"], row["val/n_samples"]) for row in written] == [
        ("1", "5", "359"),
        ("2", "10", "359"),
    ]
    for name, value in found["metrics"].items():
        assert float(written[-1][name]) == value
    assert found["best"]["val/top1"] == max(float(row["val/top1"]) for row in written)
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert not (run / "lock").exists()
    for said in ("resnet8", "Digits: 1,438 training", "256 images a step", "precision 32-true", "offline"):
        assert said in result.out
    # The same command, and the run's own config, are the same run: nothing is trained again.
    before = (run / "summary.json").read_bytes()
    for again in (line, f"fit -c {run}/config.yaml", f"fit --run_dir {run}"):
        second = cli(again)
        assert second.status == 0
        assert "finished: 2 epochs" in second.out
        assert (run / "summary.json").read_bytes() == before
    # --fresh starts another beside it.
    assert cli(f"{line} --fresh").status == 0
    other = tmp_path / "runs" / f"{run.name}-2"
    assert_same_result(other, run)
    # Evaluation reads the run with its own configuration.
    result = cli(f"test --run_dir {run}")
    assert result.status == 0
    assert "last.ckpt" in result.out
    record = json.loads((run / "evaluations" / "test-center.json").read_text())
    assert record["metrics"]["test/top1"] == found["metrics"]["val/top1"]
    assert record["metrics"]["test/n_samples"] == 359
    assert record["differences"] == []
    result = cli(f"predict --run_dir {run}")
    assert result.status == 0
    with (run / "evaluations" / "test-predictions.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    hits = sum(row["label"] == row["prediction"] for row in predictions)
    assert len(predictions) == 359
    assert hits / 359 == found["metrics"]["val/top1"]


def test_another_configuration_is_refused_before_anything_is_touched(cli, finished):
    run = finished(cli)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = cli(f"fit --run_dir {run} --model.optim.lr 0.3 --model.arch resnet14")
    assert result.status == 2
    assert "model.arch: resnet8 there, resnet14 given" in result.err
    assert "model.optim.lr: 0.2 there, 0.3 given" in result.err
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("extra", ["", "--model.ema_decay 0.9"], ids=["plain", "ema"])
@pytest.mark.parametrize(
    ("step", "place", "name", "status"),
    [
        (0, "train", "SIGTERM", 75),
        (6, "train", "SIGINT", 130),
        (9, "train", "SIGTERM", 75),  # behind an epoch's last step comes validation
        (5, "val", "SIGTERM", 75),
        (10, "val", "SIGINT", 130),
        (5, "epoch end", "SIGUSR2", 75),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(cli, finished, tmp_path, extra, step, place, name, status):
    reference = finished(cli, extra)
    run = tmp_path / "run"
    strike = STRIKE.format(mark=tmp_path / "mark", step=step, place=place, name=name)
    note = NOTE.format(file=tmp_path / "note")
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir {run} {extra} {strike} {note}"
    stopped = cli(line)
    assert stopped.status == status
    assert (tmp_path / "mark").read_text() == f"{place} {step}"
    first = summary(run)
    assert first["status"] == "preempted"
    assert f"stopped by {name} at step {first['global_step']}" in stopped.out
    resumed = cli(line)
    assert resumed.status == 0
    assert f"step {first['global_step']}" in resumed.out
    assert_same_result(run, reference)
    steps = [line.split()[:2] for line in (tmp_path / "note.0").read_text().splitlines()]
    assert steps == [[str(step // 5), str(step)] for step in range(15)]
    second = summary(run)
    assert second["best"] == summary(reference)["best"]
    assert second["run_id"] == first["run_id"]
    assert [(part["from_step"], part["to_step"]) for part in second["segments"]] == [
        (0, first["global_step"]),
        (first["global_step"], 15),
    ]
    third = cli(line)
    assert third.status == 0
    assert "finished: 3 epochs" in third.out
    assert len(steps) == len((tmp_path / "note.0").read_text().splitlines())


def test_workers_change_neither_order_nor_bits(cli, finished, tmp_path):
    reference = finished(cli)
    run = tmp_path / "run"
    strike = STRIKE.format(mark=tmp_path / "mark", step=7, place="train", name="SIGTERM")
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir {run} --data.num_workers 2 {strike}"
    assert cli(line).status == 75
    assert cli(line).status == 0
    assert_same_result(run, reference)


def test_accumulated_and_limited_epochs_resume(cli, tmp_path):
    line = (
        f"fit {SMALL} --trainer.max_epochs 3 --trainer.accumulate_grad_batches 2 --trainer.limit_train_batches 8 "
        "--data.val_split 100 --run_dir"
    )
    assert cli(f"{line} {tmp_path}/reference").status == 0
    strike = STRIKE.format(mark=tmp_path / "mark", step=6, place="train", name="SIGTERM")
    assert cli(f"{line} {tmp_path}/run {strike}").status == 75
    assert cli(f"{line} {tmp_path}/run {strike}").status == 0
    assert_same_result(tmp_path / "run", tmp_path / "reference")
    assert summary(tmp_path / "run")["val_source"] == "held-out"
    assert "best.ckpt" in cli(f"test --run_dir {tmp_path}/run").out


def test_a_run_that_was_killed_drops_what_lies_behind_its_checkpoint(cli, finished, tmp_path):
    reference = finished(cli)
    run = tmp_path / "run"
    strike = STRIKE.format(mark=tmp_path / "mark", step=7, place="train", name="SIGTERM")
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir {run} {strike}"
    assert cli(line).status == 75
    # As if a row had been written, and half of another, before the process was killed.
    with (run / "metrics.csv").open("a") as file:
        file.write("2,10,0.5,0.5,0.5,0.5,0.5,359,0.1,1000.0\n3,15,0.")
    assert cli(line).status == 0
    assert_same_result(run, reference)


def test_same_seed_same_bits_other_seed_others(cli, finished, tmp_path):
    reference = finished(cli)
    assert cli(f"fit {SMALL} --trainer.max_epochs 3 --run_dir {tmp_path}/same").status == 0
    assert_same_result(tmp_path / "same", reference)
    assert cli(f"fit {SMALL} --trainer.max_epochs 3 --run_dir {tmp_path}/other --seed_everything 1").status == 0
    assert rows(tmp_path / "other") != rows(reference)
    assert summary(reference)["images_per_second"] > 0


def test_a_loss_that_is_not_finite_ends_the_run(cli, tmp_path):
    poison = "--trainer.callbacks+=tests.observers.Poison --trainer.callbacks.step 7"
    result = cli(f"fit {SMALL} --trainer.max_epochs 3 --run_dir {tmp_path}/run {poison}")
    assert result.status == 1
    assert "not finite at epoch 1, step 7" in result.err
    assert "Traceback" not in result.err
    assert summary(tmp_path / "run")["status"] == "failed"
    assert checkpoint(tmp_path / "run")["global_step"] == 5


def test_a_trial_run_leaves_nothing(cli, tmp_path):
    assert cli(f"fit {SMALL} --trainer.fast_dev_run 2").status == 0
    assert not list(tmp_path.iterdir())


def test_training_goes_on_from_a_checkpoint_of_another_run(cli, finished, tmp_path):
    other = finished(cli)
    result = cli(
        f"fit {SMALL} --trainer.max_epochs 4 --ckpt_path {other}/checkpoints/last.ckpt --run_dir {tmp_path}/run"
    )
    assert result.status == 0
    assert "continues behind epoch 3, at step 15" in result.out
    found = summary(tmp_path / "run")
    assert found["global_step"] == 20
    assert found["best"]["epoch"] == 4  # its own, not the other run's
    result = cli(f"fit {SMALL} --model.arch resnet14 --ckpt_path {other}/checkpoints/last.ckpt --run_dir {tmp_path}/x")
    assert result.status == 2
    assert "missing     model.layer1.1.conv1.weight" in result.err
    assert not (tmp_path / "x").exists()


def test_loading_a_checkpoint_in_python(cli, finished):
    from reslightning import ImageClassifier

    run = finished(cli)
    model = ImageClassifier.load_from_checkpoint(
        run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True
    )
    state = checkpoint(run)["state_dict"]
    assert_same_bits(dict(model.state_dict()), dict(state))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_named(cli, finished, tmp_path, content):
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(content)
    for line in (
        f"fit {SMALL} --ckpt_path {damaged} --run_dir {tmp_path}/run",
        f"test --run_dir {finished(cli)} --ckpt_path {damaged}",
        f"fit {SMALL} --model.weights {damaged} --run_dir {tmp_path}/run",
    ):
        result = cli(line)
        assert result.status == 2
        assert str(damaged) in result.err
        assert "truncated or is no checkpoint" in result.err
    assert not (tmp_path / "run").exists()


def test_batch_size_of_one_one_epoch_a_path_with_spaces_and_no_home(cli, tmp_path, monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    run = tmp_path / "a folder" / "with spaces"
    result = cli(
        f"fit {SMALL} --data.batch_size 1 --data.val_split 7 --trainer.max_epochs 1 --trainer.limit_train_batches 12 "
        f"--run_dir '{run}'"
    )
    assert result.status == 0
    assert "under 16" in result.out
    assert summary(run)["metrics"]["val/n_samples"] == 7  # of ten classes, so some are missing


def test_an_unwritable_run_directory(cli, tmp_path):
    (tmp_path / "file").write_text("")
    result = cli(f"fit {SMALL} --run_dir {tmp_path}/file/run")
    assert result.status == 2
    assert "cannot write the run directory" in result.err


@pytest.mark.slow
def test_the_papers_recipe_on_real_images_twice(cli, cifar_root, tmp_path):
    for name in ("first", "second"):
        line = f"fit -c cifar10 --data.root {cifar_root} --run_dir {tmp_path}/{name} --wandb.mode offline"
        assert cli(f"{line} --trainer.max_epochs 3 --trainer.limit_train_batches 50").status == 0
    assert_same_result(tmp_path / "second", tmp_path / "first")
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "first")]
    assert losses == sorted(losses, reverse=True)
    assert summary(tmp_path / "first")["n_samples"] == {"train": 50_000, "val": 10_000, "test": 10_000}
    assert list((tmp_path / "first" / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.slow
def test_processes_one_writer_ctrl_c_and_kill(cli, tmp_path):
    """Real processes: the second is refused, Ctrl-C is resumable, a killed holder's lock is taken."""
    run = tmp_path / "run"
    line = f"fit {SMALL} --trainer.max_epochs 60 --run_dir {run}"

    def wait_for(holder, epochs):
        deadline = time.monotonic() + 120
        while not ((run / "summary.json").exists() and summary(run)["epoch"] >= epochs):
            assert holder.poll() is None, holder.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    holder = process(line)
    wait_for(holder, 1)
    refused = cli(line)
    assert refused.status == 2
    assert f"process {holder.pid} on {os.uname().nodename}" in refused.err
    holder.send_signal(signal.SIGINT)
    out, _ = holder.communicate(timeout=60)
    assert holder.returncode == 130, out
    reached = summary(run)["epoch"]
    holder = process(line)
    wait_for(holder, reached + 2)
    holder.kill()
    holder.communicate()
    assert summary(run)["status"] == "running"
    lock = Lock(run / "lock")
    lock.acquire()
    lock.release()
    killed_at = checkpoint(run)["global_step"]
    holder = process(line)
    wait_for(holder, killed_at // 5 + 1)
    holder.send_signal(signal.SIGTERM)
    out, _ = holder.communicate(timeout=60)
    assert holder.returncode == 75, out
    assert f"step {killed_at}" in out
    steps = [int(row["step"]) for row in rows(run)]
    assert steps == list(range(5, 5 * len(steps) + 1, 5))
