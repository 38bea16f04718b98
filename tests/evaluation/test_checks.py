"""A part that is silently another, and facts that were written: an evaluation is what it seems, or is refused."""

import csv
import json
import shutil
import statistics
from pathlib import Path

import pytest
import torch

from reslightning.data.labels import imagenet_classes
from reslightning.models.resnet import build_model
from tests import images
from tests.conftest import SMALL, checkpoint
from tests.images import jpeg

LINE = "--model.arch resnet8 --wandb.mode disabled --trainer.max_epochs 1 --trainer.limit_train_batches 1"
FILES = "--data ImageFolder --data.batch_size 8 --data.num_workers 0 --data.train_size 32 --data.eval_resize 32 "
FILES += "--data.eval_size 32"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with 300 held-out digits, made when first asked for."""
    made: list[Path] = []

    def make(cli) -> Path:
        if not made:
            run = tmp_path_factory.mktemp("trained") / "run"
            assert cli(f"fit {LINE} --data.val_split 300 --run_dir {run}").status == 0
            made.append(run)
        return made[0]

    return make


@pytest.mark.parametrize(
    "given", ["--data.val_split 301", "--data.val_split 200 --seed_everything 1", "--data.val_split 1000"]
)
def test_images_that_the_run_trained_on_are_refused(cli, trained, given):
    refused = cli(f"validate --run_dir {trained(cli)} {given}")
    assert refused.status == 2
    assert "would evaluate images that the run trained on: it had data.val_split=300 with seed 0" in refused.err


def test_fewer_held_out_images_are_none_that_it_trained_on(cli, trained):
    done = cli(f"validate --run_dir {trained(cli)} --data.val_split 200")
    assert done.status == 0, done.err
    assert "Digits val, 200 images, held out of its training part" in done.out
    assert "differs from the run: data.val_split: 300 there, 200 given" in done.out


def test_nothing_takes_the_whole_evaluations_place(cli, trained):
    run = trained(cli)
    assert cli(f"test --run_dir {run}").status == 0
    whole = (run / "evaluations" / "test-center.json").read_bytes()
    for given, words in (
        ("--trainer.limit_test_batches 2", "256 of 359 images"),
        ("--trainer.precision bf16-true", "trainer.precision"),
        ("--model.test_flip true", "model.test_flip"),
        ("--trainer.fast_dev_run true", "of 359 images"),
    ):
        done = cli(f"test --run_dir {run} {given} --data.batch_size 64")
        assert done.status == 0, done.err
        assert words in done.out
    assert (run / "evaluations" / "test-center.json").read_bytes() == whole
    records = [json.loads(path.read_text()) for path in (run / "evaluations").glob("test-*.json")]
    assert len(records) == 5
    assert {record["images"]["of"] for record in records} == {359}


def test_evaluation_asks_nothing_of_the_training_part(cli, trained):
    run = trained(cli)
    assert cli(f"test --run_dir {run} --data.batch_size 5000").status == 0
    refused = cli(f"fit {LINE} --data.batch_size 5000")
    assert refused.status == 2
    assert "data.batch_size=5000 exceeds the 1438 training images" in refused.err


@pytest.mark.parametrize(
    "network", ["--model.arch plain8", "--model.version v1.5", "--model.shortcut B", "--model.version v2"]
)
def test_a_checkpoint_is_of_its_own_network(cli, trained, network):
    last = trained(cli) / "checkpoints" / "last.ckpt"
    result = cli(f"test --model.arch resnet8 {network} --model.weights {last}")
    if network.endswith("v1.5"):  # the basic block has no such choice
        assert result.status == 0, result.err
        return
    assert result.status == 2
    said = (
        "are of resnet8, shortcut A, v1, and were asked to be those of plain8" if "plain" in network else "do not fit"
    )
    assert said in result.err


def test_a_checkpoint_is_of_its_own_classes_and_normalisation(cli, trained, tmp_path):
    last = trained(cli) / "checkpoints" / "last.ckpt"
    assert checkpoint(trained(cli))["normalisation"]["std"] == pytest.approx([0.325] * 3)
    refused = cli(f"test --model.arch resnet8 --model.weights {last} --data.std [0.3,0.3,0.3]")
    assert refused.status == 2
    assert "was trained with mean [0.305, 0.305, 0.305] and std [0.325, 0.325, 0.325]" in refused.err
    letters = images.tree(tmp_path / "letters", classes=[f"letter_{k}" for k in range(10)], train=1, val=1)
    refused = cli(f"validate {FILES} --data.root {letters} --model.arch resnet8 --model.weights {last}")
    assert refused.status == 2
    assert "knows 10 classes (0, 1, 2, 3, 4 and 5 more), and not these of ImageFolder" in refused.err
    assert ": letter_0, letter_1, " in refused.err


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """A run on five classes and its predictions, made when first asked for."""
    made: list[Path] = []

    def make(cli) -> Path:
        if not made:
            folder = tmp_path_factory.mktemp("animals")
            root = images.tree(folder / "data", classes=("ant", "bee", "cat", "dog", "emu"), train=4, val=4)
            assert cli(f"fit {LINE} {FILES} --data.root {root} --run_dir {folder}/run").status == 0
            assert cli(f"predict --run_dir {folder}/run").status == 0
            made.append(folder)
        return made[0]

    return make


def predictions(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("names", "empty"), [(("bee", "dog"), ()), (("ant", "cat", "emu"), ()), (("cat", "dog"), ("aardvark", "wolf"))]
)
def test_some_of_the_classes_are_evaluated_among_all(cli, animals, tmp_path, names, empty):
    folder = animals(cli)
    for name in names:
        shutil.copytree(folder / "data" / "val" / name, tmp_path / "some" / "val" / name)
    for name in [*names, *empty] if empty else []:  # classes without an image to evaluate are no obstacle
        shutil.copytree(folder / "data" / "train" / "ant", tmp_path / "some" / "train" / name)
    done = cli(f"validate --run_dir {folder}/run --data.root {tmp_path}/some")
    assert done.status == 0, done.err
    assert f"classes: {len(names)} of the 5 that the weights know" in done.out
    record = json.loads(Path(done.out.split("written to ")[1].strip()).read_text())
    whole = predictions(folder / "run" / "evaluations" / "test-predictions.csv")
    of = [row for row in whole if row["file"].split("/")[1] in names]
    assert record["metrics"]["val/top1"] == sum(row["prediction"] == row["label"] for row in of) / len(of)
    assert record["classes"] == {"evaluated": len(names), "of": 5}
    by_class = {row["class"]: row for row in record["by_class"]}
    for name in ("ant", "bee", "cat", "dog", "emu"):
        hits = [row["prediction"] == row["label"] for row in of if row["file"].split("/")[1] == name]
        assert (by_class[name]["images"], by_class[name]["top1"]) == (
            len(hits),
            sum(hits) / len(hits) if hits else None,
        )
    assert record["metrics"]["val/balanced"] == statistics.fmean(by_class[name]["top1"] for name in names)
    assert cli(f"predict --run_dir {folder}/run --data.root {tmp_path}/some --output some.csv").status == 0
    for row, before in zip(
        predictions(Path("some.csv")), sorted(of, key=lambda row: Path(row["file"]).name), strict=True
    ):
        assert row.keys() == before.keys()
        assert (row["file"], row["label"]) == (before["file"], before["label"])


def test_a_class_that_the_weights_do_not_know_is_refused(cli, animals, tmp_path):
    folder = animals(cli)
    for name, other in (("bee", "bee"), ("dog", "wolf")):
        shutil.copytree(folder / "data" / "val" / name, tmp_path / "some" / "val" / other)
    for command in ("validate", "test", "predict"):
        refused = cli(f"{command} --run_dir {folder}/run --data.root {tmp_path}/some")
        assert refused.status == 2
        assert f"and not these of ImageFolder at {tmp_path}/some: wolf\n" in refused.err


def test_the_classes_of_imagenet_s_weights_are_known(cli, tmp_path):
    state = build_model("resnet18").state_dict()
    names = list(imagenet_classes().values())
    torch.save({"state_dict": state, "class_names": names}, tmp_path / "w.ckpt")
    root = images.tree(tmp_path / "data", val=1)
    line = f"validate {FILES} --model.arch resnet18 --model.weights {tmp_path}/w.ckpt --data.root {root}"
    for data in ("ImageNet", "ImageFolder"):
        done = cli(f"{line} --data {data}")
        assert done.status == 0, done.err
        assert ("classes: 4 of the 1000 that the weights know" in done.out) == (data == "ImageFolder")


def test_a_new_head_is_evaluated_as_it_was_trained(cli, finished):
    weights = f"--model.weights {finished(cli)} --model.new_head true"
    assert cli(f"fit {SMALL} --trainer.max_epochs 1 --run_dir run {weights}").status == 0
    assert cli("test --run_dir run").status == 0
    record = json.loads(Path("run/evaluations/test-center.json").read_text())
    last = json.loads(Path("run/summary.json").read_text())["metrics"]
    assert (record["metrics"]["test/top1"], record["metrics"]["test/loss"]) == (last["val/top1"], last["val/loss"])


@pytest.mark.parametrize("value", [1.5, -0.25, ".inf"])
def test_an_accuracy_that_cannot_be_is_an_error(cli, finished, value):
    run = finished(cli)
    before = sorted(run.rglob("*"))
    failed = cli(
        f"test --run_dir {run} --trainer.callbacks+=tests.observers.Claim --trainer.callbacks.name test/top1 "
        f"--trainer.callbacks.value {value}"
    )
    assert failed.status == 1
    assert f"test/top1 is {str(value).strip('.')}" in failed.err
    assert sorted(run.rglob("*")) == before


def test_of_a_bare_state_dict_the_assumption_is_said(cli, tmp_path):
    torch.save(build_model("resnet8").state_dict(), tmp_path / "w.pt")
    done = cli(f"test --model.arch resnet8 --model.weights {tmp_path}/w.pt")
    assert "the file says nothing of its network: taken for resnet8" in done.out


@pytest.mark.parametrize("fill", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_an_error(cli, tmp_path, fill):
    state = build_model("resnet8").state_dict()
    state["fc.bias"].fill_(fill)
    torch.save(state, tmp_path / "w.pt")
    failed = cli(f"test --model.arch resnet8 --model.weights {tmp_path}/w.pt")
    assert failed.status == 1
    assert "the network's answers are no numbers" in failed.err


def test_a_stray_picture_in_test_is_named(cli, tmp_path):
    root = images.tree(tmp_path / "data", classes=("cat", "dog"))
    for name in ("cat", "dog"):
        (root / "test" / name).mkdir(parents=True)
        (root / "test" / name / "1.JPEG").write_bytes(jpeg(hash(name) % 1000 + 2000))
    (root / "test" / "stray.JPEG").write_bytes(jpeg(5000))
    refused = cli(f"fit {LINE} {FILES} --data.root {root}")
    assert refused.status == 2
    assert "images in class folders, and others in none: test/stray.JPEG" in refused.err


@pytest.mark.parametrize("bare", [("1.JPEG",), ("a.png", "b.JPEG"), ()])
def test_a_test_part_that_is_the_validation_images_is_said(cli, tmp_path, bare):
    root = images.tree(tmp_path / "data", classes=("cat", "dog"))
    (root / "test").mkdir()
    for number, name in enumerate(bare):
        (root / "test" / name).write_bytes(jpeg(5000 + number))
    done = cli(f"fit {LINE} {FILES} --data.root {root} --run_dir run")
    assert done.status == 0, done.err
    assert (f"not read: {len(bare)} test images in no class's folder: " in done.out) == bool(bare)
    done = cli("test --run_dir run")
    assert "test, 6 images, which are its validation images: it has no labelled test images, center" in done.out


def test_validation_images_that_are_the_test_set_are_said(cli, finished):
    assert "val, 359 images, which are its test images, center" in cli(f"validate --run_dir {finished(cli)}").out


def test_predictions_name_their_files(cli, tmp_path):
    root = images.tree(tmp_path / "data", classes=("cat", "dog"))
    assert cli(f"fit {LINE} {FILES} --data.root {root} --run_dir run").status == 0
    assert cli("predict --run_dir run").status == 0
    head, first, *_ = Path("run/evaluations/test-predictions.csv").read_text().splitlines()
    assert head == "index,label,prediction,cat,dog,file"
    assert first.endswith(",val/cat/ILSVRC2012_val_00000001.JPEG")


def test_nothing_takes_the_whole_predictions_place(cli, trained):
    run = trained(cli)
    assert cli(f"predict --run_dir {run}").status == 0
    whole = (run / "evaluations" / "test-predictions.csv").read_bytes()
    for given, words in (
        ("--trainer.limit_predict_batches 2 --data.batch_size 32", "test-predictions-128-of-359-other-"),
        ("--trainer.precision bf16-true", "/test-predictions-other-"),
        ("--model.test_flip true", "differs from the run: model.test_flip"),
    ):
        done = cli(f"predict --run_dir {run} {given}")
        assert done.status == 0, done.err
        assert words in done.out
    assert (run / "evaluations" / "test-predictions.csv").read_bytes() == whole


@pytest.mark.parametrize("command", ["fit --run_dir run", "test --run_dir run", "compare run"])
def test_a_format_to_come_is_refused_and_left(cli, finished, command):
    run = finished(cli)
    Path("run").mkdir()
    for name in ("config.yaml", "metrics.csv"):
        (Path("run") / name).write_bytes((run / name).read_bytes())
    facts = json.loads((run / "summary.json").read_text()) | {"format": 2}
    Path("run/summary.json").write_text(json.dumps(facts))
    refused = cli(command)
    assert refused.status == 2
    assert "is a run of format 2, and this version of reslightning knows 1" in refused.err
    assert json.loads(Path("run/summary.json").read_text()) == facts


def test_a_cut_summary_is_said_and_its_run_goes_on(cli, tmp_path):
    line = f"fit {LINE} --trainer.max_epochs 2 --run_dir run --trainer.callbacks+=tests.observers.Strike "
    line += f"--trainer.callbacks.mark {tmp_path}/mark --trainer.callbacks.step 1"
    assert cli(line).status == 75
    file = Path("run/summary.json")
    before = json.loads(file.read_text())
    file.write_text(file.read_text()[:400])
    done = cli(line)
    assert done.status == 0, done.err
    assert "summary.json is cut, what it still says is kept: format, run_id" in done.out
    assert json.loads(file.read_text())["run_id"] == before["run_id"]
