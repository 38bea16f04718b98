"""Two processes train on the global batches of one, and count every validation sample once."""

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer

from reslightning import load
from tests.conftest import OPTIONS, SMALL, assert_same_result, process
from tests.ranks import TWO, run
from tests.small import Uneven


def batches(note: Path, ranks: int) -> dict[str, list[int]]:
    """Return the samples of each global step."""
    found = defaultdict(list)
    for rank in range(ranks):
        for line in Path(f"{note}.{rank}").read_text().splitlines():
            _, step, *samples = line.split()
            found[step] += map(int, samples)
    return found


def evaluation(run_dir: Path) -> dict:
    return json.loads((run_dir / "evaluations" / "val-center.json").read_text())


def test_two_processes_are_one(cli, tmp_path):
    note = "--trainer.callbacks+=tests.observers.Note --trainer.callbacks.file"
    line = f"fit {SMALL} --trainer.max_epochs 2"
    # As a user starts it, with Lightning's own launcher; the others' processes are forks.
    child = process(f"{line} {TWO} --run_dir {tmp_path}/two {note} {tmp_path}/two.note")
    out, _ = child.communicate(timeout=300)
    assert child.returncode == 0, out
    assert "2 x 128" in out
    assert cli(f"{line} --run_dir {tmp_path}/one {note} {tmp_path}/one.note").status == 0
    one, two = batches(tmp_path / "one.note", 1), batches(tmp_path / "two.note", 2)
    assert one.keys() == two.keys() == {str(step) for step in range(10)}
    for step, samples in one.items():
        assert sorted(samples) == sorted(two[step])
    for epoch in (range(5), range(5, 10)):
        seen = [sample for step in epoch for sample in two[str(step)]]
        assert len(seen) == len(set(seen)) == 1280
    # The same weights give the same counts on one process and on two.
    run(f"validate --run_dir {tmp_path}/two {TWO}")
    both = evaluation(tmp_path / "two")
    assert cli(f"validate --run_dir {tmp_path}/two --trainer.devices 1").status == 0
    single = evaluation(tmp_path / "two")
    assert (both["world_size"], single["world_size"]) == (2, 1)
    for name in ("val/top1", "val/top5", "val/n_samples"):
        assert both["metrics"][name] == single["metrics"][name]
    assert both["metrics"]["val/n_samples"] == 359
    assert both["metrics"]["val/loss"] == pytest.approx(single["metrics"]["val/loss"], rel=1e-6)


@pytest.mark.parametrize("extra", ["", "--trainer.accumulate_grad_batches 2 --trainer.gradient_clip_val 0.5"])
def test_gradients_that_lie_where_they_are_reduced_have_the_same_bits(tmp_path, extra):
    note = "--trainer.callbacks+=tests.observers.Buckets --trainer.callbacks.file"
    line = f"fit {SMALL} {TWO} {extra} --trainer.max_epochs 2"
    run(f"{line} --run_dir {tmp_path}/run {note} {tmp_path}/by_default")
    ddp = "--trainer.strategy DDPStrategy --trainer.strategy.gradient_as_bucket_view false"
    run(f"{line} --run_dir {tmp_path}/reference {ddp} {note} {tmp_path}/apart")
    assert [(tmp_path / name).read_text() for name in ("by_default", "apart")] == ["True", "False"]
    assert_same_result(tmp_path / "run", tmp_path / "reference")


def test_a_run_goes_on_with_another_number_of_processes(cli, tmp_path):
    note = f"--trainer.callbacks+=tests.observers.Note --trainer.callbacks.file {tmp_path}"
    strike = f"--trainer.callbacks+=tests.observers.Strike --trainer.callbacks.mark {tmp_path}/mark"
    line = f"fit {SMALL} --trainer.max_epochs 2 --run_dir {tmp_path}"
    assert cli(f"{line}/whole {note}/whole").status == 0
    stopped = f"{line}/run {note}/run.note {strike} --trainer.callbacks.step 6"
    assert cli(stopped).status == 75
    out = run(f"{stopped} {TWO}")
    assert "2 instead of 1: the same samples a step, other rounding" in out
    whole = batches(tmp_path / "whole", 1)
    parts = batches(tmp_path / "run.note", 2)
    assert {step: sorted(samples) for step, samples in parts.items()} == {
        step: sorted(samples) for step, samples in whole.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("step", "place", "rank"), [(6, "train", 1), (5, "val", 0)])
def test_a_signal_to_one_process_stops_both_and_the_run_goes_on_to_the_same_bits(tmp_path, step, place, rank):
    line = f"fit {OPTIONS} {TWO} --trainer.max_epochs 3 --model.ema_decay 0.9"
    run(f"{line} --run_dir {tmp_path}/reference")
    strike = (
        f"--trainer.callbacks+=tests.observers.Strike --trainer.callbacks.mark {tmp_path}/mark "
        f"--trainer.callbacks.step {step} --trainer.callbacks.place {place} --trainer.callbacks.rank {rank}"
    )
    out = run(f"{line} --run_dir {tmp_path}/run {strike}", status=75)
    assert "stopped by SIGTERM" in out
    assert (tmp_path / "mark").read_text() == f"{place} {step}"
    run(f"{line} --run_dir {tmp_path}/run {strike}")
    assert_same_result(tmp_path / "run", tmp_path / "reference")


@pytest.mark.slow
def test_ten_thousand_and_one_samples(cli, cifar_root, tmp_path):
    options = (
        f"--data CIFAR10 --data.root {cifar_root} --data.val_split 10001 --model.arch resnet8 --wandb.mode disabled"
    )
    assert (
        cli(f"fit {options} --trainer.max_epochs 1 --trainer.limit_train_batches 5 --run_dir {tmp_path}/run").status
        == 0
    )
    cli(f"validate --run_dir {tmp_path}/run")
    single = evaluation(tmp_path / "run")
    run(f"validate --run_dir {tmp_path}/run {TWO}")
    both = evaluation(tmp_path / "run")
    assert both["metrics"]["val/n_samples"] == single["metrics"]["val/n_samples"] == 10001
    assert both["metrics"]["val/top1"] == single["metrics"]["val/top1"]
    assert both["metrics"]["val/loss"] == pytest.approx(single["metrics"]["val/loss"], rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
def test_an_uneven_set_is_counted_alike_by_numpy_a_plain_trainer_and_any_number_of_processes(cli, tmp_path):
    """10,001 images, which no number of processes divides: every one once. Sums of floats differ in their rounding."""
    line = f"--data tests.small.Uneven {OPTIONS}"
    assert cli(f"fit {line} --trainer.max_epochs 1 --run_dir run --trainer.limit_val_batches 1").status == 0
    assert cli("predict --run_dir run --trainer.limit_predict_batches 1.0").status == 0
    (predicted,) = Path("run/evaluations").glob("test-predictions*.csv")
    answers = np.loadtxt(predicted, delimiter=",", skiprows=1, usecols=range(10))
    labels, shares = answers[:, 1].astype(int), answers[:, 3:]
    assert len(labels) == 10_001
    right, ranks = shares.argmax(1) == labels, (shares > shares[np.arange(10_001), labels][:, None]).sum(1)
    counted = {"top1": right.sum() / 10_001, "top5": (ranks < 5).sum() / 10_001, "n_samples": 10_001}
    counted["balanced"] = math.fsum(right[labels == k].sum() / (labels == k).sum() for k in range(7)) / 7
    (found,) = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False).test(
        load("run"), datamodule=Uneven(batch_size=256), verbose=False
    )
    for devices in (1, 2, 3):
        run(f"test --run_dir run --trainer.devices {devices} --trainer.accelerator cpu")
        (file,) = Path("run/evaluations").glob("test-center*.json")
        record = json.loads(file.read_text())
        file.unlink()
        assert {name: record["metrics"][f"test/{name}"] for name in counted} == counted
        assert {row["class"]: row["images"] for row in record["by_class"]} == dict(
            zip("abcdefg", np.bincount(labels), strict=True)
        )
        for name, value in record["metrics"].items():
            assert value == pytest.approx(found[name], rel=0 if name.split("/")[1] in counted else 1e-6), name
