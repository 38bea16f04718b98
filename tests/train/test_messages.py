"""What a training says of its loader, of its validation images, and of a result that is no better than guessing."""

from pathlib import Path

import pytest

from reslightning.train.messages import verdict
from tests.conftest import LARGER, SMALL
from tests.images import jpeg


@pytest.mark.parametrize(
    ("waited", "workers", "cpus", "said"),
    [
        (0.02, 4, 8, "not loader-bound: 2 % of the time was spent waiting for data"),
        (0.5, 4, 16, "loader-bound: 50 % of the time was spent waiting for data; 8 workers would do"),
        (0.75, 0, 16, "3 workers would do (data.num_workers, now 0)"),
        (0.5, 4, 6, "but this process has 6 CPUs: ask for more, or `reslightning pack --max-side 400`"),
        (None, 4, 6, "too few steps"),
    ],
)
def test_the_loader_s_verdict(waited, workers, cpus, said):
    assert said in verdict(waited, workers, cpus)


@pytest.mark.parametrize(("span", "early"), [("[0,1]", False), ("[1,2]", True)])
def test_the_sizes_of_images_that_grow_are_said(cli, span, early):
    line = f"fit {LARGER} --trainer.limit_train_batches 1 --trainer.max_epochs 2 --run_dir run"
    found = cli(f"{line} --data.first_size 4 --data.grow_epochs {span}")
    assert found.status == 0, found.err
    assert ("warning: training ends at" in found.out) == early
    last, first = (2, 3) if early else (1, 2)
    assert f"of 4 pixels up to epoch {last}, of 8 from epoch {first} on; evaluated, and multiply-adds" in found.out


def uneven(folder: Path, counts: dict[str, int], splits=("train", "val")) -> Path:
    """Make so many pictures of each class, in each split."""
    for split in splits:
        for name, count in counts.items():
            (folder / split / name).mkdir(parents=True)
            for k in range(count):
                number = 1000 * len(split) + 100 * sorted(counts).index(name) + k
                (folder / split / name / f"{k}.jpg").write_bytes(jpeg(number, 20, 20))
    return folder


PICTURES = "--data ImageFolder --model.arch resnet8 --data.batch_size 8 --data.num_workers 0 --wandb.mode disabled"
PICTURES += " --data.train_size 16 --data.eval_size 16 --data.eval_resize 16 --trainer.max_epochs 1"


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"cat": 9, "dog": 3}, "25.00 %"),
        ({"a": 2, "b": 10, "c": 2}, "28.57 %"),
        ({"cat": 6, "dog": 6}, None),
        ({"a": 4, "b": 4, "c": 4}, None),
    ],
)
def test_the_majority_s_error_stands_beside_the_result_of_uneven_classes(cli, tmp_path, counts, said):
    data = uneven(tmp_path / "data", counts)
    shown = [cli(f"fit {PICTURES} --data.root {data} --run_dir run").out for _ in range(2)]
    shown.append(cli("test --run_dir run").out)
    for text in shown:
        lines = [line for line in text.splitlines() if "most frequent class" in line]
        assert len(lines) == (said is not None), text
        assert said is None or said in lines[0]


@pytest.mark.parametrize(
    "poor", ["--model.optim.lr 1e-9", "--model.optim.lr 30", "--model.arch plain26 --model.optim.lr 9"]
)
def test_a_training_that_ends_near_chance_says_that_it_did_not_train(cli, poor):
    line = f"fit {SMALL} --trainer.max_epochs 1 --trainer.limit_train_batches 3 --run_dir run {poor}"
    for result in (cli(line), cli(line)):  # as it ends, and shown again
        assert result.status == 0, result.err
        assert "it did not train: its training error, " in result.out
        assert "of guessing" in result.out
        assert "model.optim.lr" in result.out


def test_a_training_that_trains_says_nothing_of_chance(cli):
    result = cli(f"fit {SMALL} --data.crop_padding 0 --data.batch_size 32 --trainer.max_epochs 2")
    assert result.status == 0
    assert "did not train" not in result.out


@pytest.mark.parametrize(
    ("splits", "extra", "words"),
    [
        (("train", "val"), "", "its own validation images, which are its test images too"),
        (("train", "val", "test"), "", "its own validation images"),
        (("train", "val"), "--data.val_split 4", "held out by seed 0"),
        (("train", "test"), "", "the test set"),
    ],
)
def test_what_validation_images_are_called(cli, tmp_path, splits, extra, words):
    data = uneven(tmp_path / "data", {"cat": 8, "dog": 8}, splits)
    result = cli(f"fit {PICTURES} --data.root {data} --run_dir run {extra}")
    assert result.status == 0, result.err
    assert f"validation images ({words})" in result.out
    compared = cli("compare run").out
    assert ("the test set" in result.out, "the test set" in compared) == (words == "the test set",) * 2
