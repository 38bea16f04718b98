"""Runs through the command line: what they leave, and how they end."""

import csv
import json

import pytest
import torch

from tests.conftest import LARGER, SMALL, assert_same_bits, assert_same_result, checkpoint, rows, summary


def test_a_run_leaves_what_the_design_says(cli, tmp_path):
    line = f"fit {SMALL.replace('disabled', 'offline')} --trainer.max_epochs 2"
    result = cli(line)
    assert result.status == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("thumbnails-resnet8-0-")
    found = summary(run)
    assert found["status"] == "finished"
    assert (found["epoch"], found["global_step"], found["world_size"]) == (2, 10, 1)
    assert found["n_samples"] == {"train": 1438, "val": 359, "test": 359}
    assert found["val_source"] == "test"
    assert found["run_id"]
    assert found["segments"][0].keys() == {
        *("started", "job", "host", "world_size", "from_step", "to_step", "commit", "dirty", "code", "seconds"),
        *("wandb", "recorded"),
    }
    assert (found["segments"][0]["wandb"], found["segments"][0]["recorded"]) == ("offline", True)
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
    for said in ("resnet8", "Thumbnails: 1,438 training", "256 images a step", "precision 32-true", "offline"):
        assert said in result.out
    threads = torch.get_num_threads()
    assert found["environment"]["threads"] == threads
    assert f"1 x CPU of {threads} thread" in result.out
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
    assert "model.optim.lr: 0.1 there, 0.3 given" in result.err
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


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
    assert summary(tmp_path / "run")["diverged"] is True
    assert checkpoint(tmp_path / "run")["global_step"] == 5


def test_a_trial_run_leaves_nothing(cli, tmp_path):
    assert cli(f"fit {SMALL} --trainer.fast_dev_run 2").status == 0
    assert not list(tmp_path.iterdir())


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
        f"fit {LARGER} --data.batch_size 1 --data.val_split 7 --trainer.max_epochs 1 --trainer.limit_train_batches 12 "
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
