"""Folders of classes: the same batches from every source, resumed and with workers."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reslightning.cluster.staging import release
from reslightning.commands.pack import main as pack
from reslightning.data import ImageFolder, ImageNet, decode, on_device
from reslightning.data.sampler import EvalSampler, TrainSampler
from reslightning.errors import UserError
from tests import images
from tests.conftest import SHARED, assert_same_result, checkpoint, rows, summary
from tests.ranks import TWO, run
from tests.train.test_distributed import batches
from tests.train.test_preemption import NOTE, STRIKE

SIZES = {"train_size": 32, "eval_resize": 36, "eval_size": 32, "batch_size": 8}
LINE = (
    "fit --data ImageFolder --data.batch_size 8 --data.train_size 32 --data.eval_resize 36 --data.eval_size 32 "
    "--model.arch resnet8 --model.schedule.warmup 1 --wandb.mode disabled --trainer.max_epochs 3 "
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return images.tree(tmp_path_factory.mktemp("tree"), train=9)


@pytest.fixture(scope="module")
def sources(tree, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    pack(["pack", str(tree), str(folder / "packed")])
    return {
        "tree": tree,
        "official": images.official(tree, folder / "official"),
        "packed": folder / "packed",
    }


def all_batches(data, split: str, *, epoch: int = 0, first: int = 0):
    if split == "train":
        sampler = TrainSampler(data.n_samples(split), 8, seed=data.seed, rank=0, world_size=1)
        sampler.resume_at(epoch, first)
    else:
        sampler = EvalSampler(data.n_samples(split), rank=0, world_size=1)
    for content in data.loader(split, sampler, 8):
        labels_and_images = (
            data.training_batch(content, epoch) if split == "train" else data.evaluation_batch(content, split)
        )
        yield *labels_and_images, data.indices(content)


def assert_same_batches(one, other) -> None:
    for first, second in zip(one, other, strict=True):
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_source_gives_the_same_batches(tree, sources, workers):
    options = SIZES | {"num_workers": workers, "policy": "trivial", "erasing": 0.5, "mixup": 0.2, "cutmix": 1.0}
    expected = ImageNet(root=str(tree), **(options | {"num_workers": 0}))
    train = list(all_batches(expected, "train", epoch=3))
    assert [len(batch[1]) for batch in train] == [8] * 4
    assert train[0][0].shape == (8, 3, 32, 32)
    assert train[0][1].shape == (8, 1000)
    val = list(all_batches(expected, "val"))
    assert sum(len(batch[1]) for batch in val) == 12
    for root in sources.values():
        data = ImageNet(root=str(root), **options)
        assert_same_batches(all_batches(data, "train", epoch=3), train)
        assert_same_batches(all_batches(data, "train", epoch=3, first=16), train[2:])
        assert_same_batches(all_batches(data, "val"), val)


def test_a_test_part_of_its_own(tmp_path):
    root = images.tree(tmp_path / "t", classes=("cat", "dog"))
    assert ImageFolder(root=str(root), **SIZES).val_source == "test"
    (root / "test" / "cat").mkdir(parents=True)
    (root / "test" / "cat" / "a.jpg").write_bytes(images.jpeg(1))
    data = ImageFolder(root=str(root), **SIZES)
    assert [data.n_samples(split) for split in ("train", "val", "test")] == [16, 6, 1]
    assert data.val_source == "held-out"
    data = ImageFolder(root=str(root), val_split=4, **SIZES)
    assert [data.n_samples(split) for split in ("train", "val", "test")] == [12, 4, 1]


def test_crops_grow():
    data = ImageFolder(first_size=160, train_size=224, grow_epochs=[2, 6])
    assert [data.size_at(epoch) for epoch in range(8)] == [160, 160, 160, 192, 192, 192, 224, 224]
    data = ImageFolder(first_size=40, train_size=64, grow_epochs=[0, 4])
    assert [data.size_at(epoch) for epoch in range(5)] == [40, 40, 64, 64, 64]  # never to less than the first
    for options, message in (
        ({"first_size": 160}, "belong together"),
        ({"first_size": 160, "grow_epochs": [6, 2]}, "no span of epochs"),
        ({"eval_size": 300}, "more than data.eval_resize"),
        ({"crop_scale": 0.0}, "out of range"),
        ({"erasing": 1.5}, "data.erasing=1.5"),
    ):
        with pytest.raises(UserError, match=message):
            ImageFolder(**options)


# -- through the command line -------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(tree, tmp_path_factory):
    made: list[Path] = []

    def make(cli) -> Path:
        if not made:
            folder = tmp_path_factory.mktemp("reference")
            result = cli(f"{LINE} --data.root {tree} --data.num_workers 0 --run_dir {folder}/run")
            assert result.status == 0, result.err
            made.append(folder / "run")
        return made[0]

    return make


@pytest.mark.parametrize(("name", "workers"), [("tree", 1), ("official", 2), ("packed", 0)])
def test_resumed_in_mid_epoch_from_every_source(cli, reference, sources, tmp_path, name, workers):
    strike = STRIKE.format(mark=tmp_path / "mark", step=6, place="train", name="SIGTERM")
    note = NOTE.format(file=tmp_path / "note")
    line = f"{LINE} --data.root {sources[name]} --data.num_workers {workers} --run_dir {tmp_path}/run {strike} {note}"
    assert cli(line).status == 75
    done = cli(line)
    assert done.status == 0
    assert_same_result(tmp_path / "run", reference(cli))
    steps = [int(row.split()[1]) for row in (tmp_path / "note.0").read_text().splitlines()]
    assert steps == list(range(12))
    assert "data       " in done.out
    assert "waiting" in done.out or "waited" in done.out


def test_a_run_s_record(cli, reference):
    run_dir = reference(cli)
    found = summary(run_dir)
    assert found["n_samples"] == {"train": 36, "val": 12, "test": 12}
    assert found["protocol"] == "center-36-32"
    assert checkpoint(run_dir)["class_names"] == ["tench", "goldfish", "tabby", "golf ball"]
    assert "data_wait" in (run_dir / "metrics.csv").read_text().splitlines()[0]
    evaluated = cli(f"test --run_dir {run_dir}")
    assert evaluated.status == 0, evaluated.err
    assert "no labelled test images, center-36-32" in evaluated.out
    assert cli(f"predict --run_dir {run_dir}").status == 0
    predictions = (run_dir / "evaluations" / "test-predictions.csv").read_text().splitlines()
    assert predictions[0] == "index,label,prediction,tench,goldfish,tabby,golf ball,file"
    assert len(predictions) == 13


def test_two_processes_see_the_global_batches_of_one(cli, tree, tmp_path):
    note = "--trainer.callbacks+=tests.observers.Note --trainer.callbacks.file"
    line = LINE.replace("max_epochs 3", "max_epochs 2") + f"--data.root {tree} --data.num_workers 1"
    run(f"{line} {TWO} --run_dir {tmp_path}/two {note} {tmp_path}/two.note")
    assert cli(f"{line} --run_dir {tmp_path}/one {note} {tmp_path}/one.note").status == 0
    one, two = batches(tmp_path / "one.note", 1), batches(tmp_path / "two.note", 2)
    assert {step: sorted(samples) for step, samples in one.items()} == {
        step: sorted(samples) for step, samples in two.items()
    }
    for epoch in (range(4), range(4, 8)):
        seen = [sample for step in epoch for sample in two[str(step)]]
        assert len(seen) == len(set(seen)) == 32
    assert [row["val/n_samples"] for row in rows(tmp_path / "two")] == ["12", "12"]


def test_fine_tuning_with_a_new_head(cli, reference, tmp_path):
    root = images.tree(tmp_path / "t", classes=("cat", "dog", "emu"))
    line = f"{LINE} --data.root {root} --data.num_workers 0 --model.weights {reference(cli)} --run_dir {tmp_path}/run"
    refused = cli(line)
    assert refused.status == 2
    assert "misshapen   fc.weight: the network has [3, 64], the file [4, 64]" in refused.err
    assert "--model.new_head true to train a new final layer" in refused.err
    done = cli(f"{line} --model.new_head true --model.frozen_stages 2 --model.optim.body_lr 0.1")
    assert done.status == 0, done.err
    before, after = checkpoint(reference(cli))["state_dict"], checkpoint(tmp_path / "run")["state_dict"]
    frozen = [name for name in before if name.split(".")[1] in ("conv1", "bn1", "layer1", "layer2")]
    assert len(frozen) > 20
    assert [name for name in frozen if not torch.equal(before[name], after[name])] == []
    moved = [name for name in before if name.startswith("model.layer3") and name.endswith("weight")]
    assert not any(torch.equal(before[name], after[name]) for name in moved)
    assert after["model.fc.weight"].shape == (3, 64)
    groups = checkpoint(tmp_path / "run")["optimizer_states"][0]["param_groups"]
    assert sorted(group["initial_lr"] for group in groups) == pytest.approx([0.01, 0.1])
    assert cli(f"{line} --model.new_head true --model.frozen_stages 4").status == 2
    assert checkpoint(tmp_path / "run")["class_names"] == ["cat", "dog", "emu"]


def test_decoding_on_the_device(tmp_path):
    """On a CPU, by the same calls: the same bits where a crop is not scaled, as only its scaling is another's."""
    root = images.tree(tmp_path / "t")
    folder = root / "train" / "n01440764"
    (folder / "n01440764_0.JPEG").write_bytes(images.jpeg(0, progressive=True))
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    (folder / "n01440764_1.JPEG").write_bytes(images.jpeg(1, exif=exif))
    for upright in (False, True):
        options = SIZES | {"exif_orientation": upright}
        both = [ImageFolder(root=str(root), num_workers=0, device_decode=device, **options) for device in (False, True)]
        for one, other in zip(*(all_batches(data, "train") for data in both), strict=True):
            assert torch.equal(one[1], other[1])
            assert (one[0] - other[0]).abs().mean() < 0.05


@pytest.mark.parametrize("turn", decode.TURNS)
def test_the_device_decodes_what_is_stored_to_the_same_bits(turn):
    exif = Image.Exif()
    exif[decode.ORIENTATION] = turn
    content = images.jpeg(turn, 60, 48, exif=exif)
    middle = decode.Box(7, 9, 32, 32)
    found = on_device.decoded([(on_device.as_stored(content), middle)], torch.device("cpu"), 32)
    expected = decode.decode(content)[7:39, 9:41]
    assert np.array_equal(found[0].permute(1, 2, 0), expected)


def test_a_run_that_decodes_on_the_device_goes_on_to_the_same_bits(cli, tree, tmp_path):
    line = f"{LINE} --data.root {tree} --data.device_decode true --data.num_workers 1 --run_dir"
    strike = STRIKE.format(mark=tmp_path / "mark", step=5, place="train", name="SIGTERM")
    assert cli(f"{line} {tmp_path}/reference").status == 0
    assert cli(f"{line} {tmp_path}/run {strike}").status == 75
    assert cli(f"{line} {tmp_path}/run {strike}").status == 0
    assert_same_result(tmp_path / "run", tmp_path / "reference")


def test_a_decoder_that_is_missing(cli, tree, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    result = cli(f"{LINE} --data.root {tree} --data.device_decode true --run_dir {tmp_path}/run")
    assert result.status == 2
    assert "data.device_decode needs torchcodec" in result.err
    assert "pip install 'reslightning[decode]'" in result.err
    assert not (tmp_path / "run").exists()
    assert cli(f"{LINE} --data.root {tree} --run_dir {tmp_path}/run").status == 0
    line = f"validate --run_dir {tmp_path}/run --data.device_decode true"
    assert cli(line).status == 0  # which decodes nothing on the device


def test_staging_a_tar_with_its_labels_and_index(cli, tree, tmp_path):
    flat = tmp_path / "flat"
    images.flatten(tree, flat / "val")
    (flat / "train").symlink_to(tree / "train")
    path = tmp_path / "source" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", dereference=True) as archive:
        archive.add(flat, ".")
    found = images.flat_val(tree)
    (path.parent / "val.txt").write_text("".join(f"{file} {wnid}\n" for file, (wnid, _) in found.items()))
    (path.parent / "unrelated").write_bytes(b"x" * 1000)
    one = ImageNet(root=str(path), num_workers=0, **SIZES)
    expected = list(all_batches(one, "val"))
    staged = ImageNet(root=str(path), stage_to=str(tmp_path / "local"), num_workers=0, **SIZES)
    staged.setup()
    assert str(staged.root).startswith(str(tmp_path / "local"))
    assert staged.images.made == 0  # the index came along
    assert not list((tmp_path / "local").rglob("unrelated"))
    assert_same_batches(all_batches(staged, "val"), expected)
    release()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data.root {tmp}/nowhere", "no such folder or tar"),
        ("--data.root {tmp}", "looked for: train/CLASS/FILE and val/"),
        ("--data.root {tree} --data.batch_size 64", "exceeds the 36 training images"),
        ("--data.root {tree} --trainer.devices 16 --data.batch_size 16", "fewer than the 16 processes"),
        ("--data.root {tmp}/only", "no training images"),
        ("--data.root {tree} --data.on_corrupt ignore", "data.on_corrupt=ignore is not allowed"),
        ("--data.root {tree} --data.train_sise 3", "did you mean 'data.train_size'"),
    ],
)
def test_mistakes(cli, tree, tmp_path, options, message):
    images.flatten(tree, tmp_path / "only" / "val" / "n01440764")
    result = cli(f"{LINE} {options.format(tmp=tmp_path, tree=tree)} --run_dir {tmp_path}/run")
    assert result.status == 2, result.out
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_staging_packed_tars(cli, sources, reference, tmp_path):
    line = f"{LINE} --data.root {sources['packed']} --data.stage_to {tmp_path}/local --run_dir {tmp_path}/run"
    result = cli(line)
    assert result.status == 0, result.err
    assert "indexed" not in result.out  # the index is copied, too
    assert not (tmp_path / "local").exists() or not any((tmp_path / "local").iterdir())
    assert_same_result(tmp_path / "run", reference(cli))
    result = cli(f"{LINE} --data.root {sources['tree']} --data.stage_to {tmp_path}/local --run_dir {tmp_path}/other")
    assert "a tree of files is not copied" in result.err


@pytest.mark.slow
def test_real_tiny_imagenet(cli, tmp_path):
    """Ten classes of Tiny ImageNet straight from their tar: 64-pixel JPEGs, some of them grey."""
    path = SHARED / "data" / "tiny-imagenet-10.tar"
    if not path.is_file():
        pytest.skip(f"needs real images: no {path} (RESLIGHTNING_SHARED names the folder elsewhere)")
    (tmp_path / "tiny.tar").symlink_to(path)
    line = (
        f"fit --data ImageFolder --data.root {tmp_path}/tiny.tar --data.train_size 32 --data.eval_resize 64 "
        "--data.eval_size 64 --data.crop_scale 0.25 --model.arch resnet8 --model.optim.nesterov true "
        f"--model.schedule.name one_cycle --trainer.max_epochs 1 --wandb.mode disabled --run_dir {tmp_path}/run"
    )
    result = cli(line)
    assert result.status == 0, result.err
    found = summary(tmp_path / "run")
    assert found["n_samples"] == {"train": 5000, "val": 500, "test": 500}
    assert found["metrics"]["val/top1"] > 0.12
    with tarfile.open(path) as archive:
        assert len([m for m in archive if m.isfile() and m.name.endswith(".JPEG")]) == 5500
