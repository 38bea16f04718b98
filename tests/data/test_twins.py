"""Too good to be true: images that stand in two parts, a single class; and an index that is older than its source."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reslightning.data import ImageFolder, twins
from reslightning.data.digits import Digits
from reslightning.data.sources import INDEX, Source
from tests import images
from tests.data.test_pixels import LINE


@pytest.fixture
def root(tmp_path) -> Path:
    return images.tree(tmp_path / "t", classes=("cat", "dog"), train=4, val=2)


def files(root: Path, split: str) -> list[Path]:
    return sorted((root / split).rglob("*.JPEG"))


# -- images that stand in two parts ---------------------------------------------------------------


def test_images_of_train_in_val_are_counted_and_named(cli, root, tmp_path):
    for number in (0, 5):
        shutil.copy(files(root, "train")[number], root / "val" / "dog" / f"copy{number}.JPEG")
    result = cli(f"{LINE} --data.root {root} --run_dir {tmp_path}/run")
    assert result.status == 0, result.err
    assert "warning: 2 of 6 val images stand in train, too, byte for byte" in result.out
    assert f"val/dog/copy0.JPEG is {files(root, 'train')[0].relative_to(root)}" in result.out
    assert "of 6 val images stand in train" in cli(f"validate --run_dir {tmp_path}/run").out


def test_images_of_train_in_a_test_part_in_a_tar(cli, root, tmp_path):
    shutil.copytree(root / "val", root / "test")
    shutil.copy(files(root, "train")[7], root / "test" / "dog" / "one.JPEG")
    images.tar(root, tmp_path / "a.tar")
    result = cli(f"{LINE} --data.root {tmp_path}/a.tar --run_dir {tmp_path}/run")
    assert "warning: 1 of 5 test images stand in train" in result.out
    assert "warning: 4 of 5 test images stand in val" in result.out


def test_copies_within_train_count_where_one_is_held_out(cli, root, tmp_path):
    for path in files(root, "train"):
        shutil.copy(path, path.with_suffix(".jpg"))
    result = cli(f"{LINE} --data.root {root} --run_dir {tmp_path}/run")
    assert "stand in" not in result.out
    result = cli(f"{LINE} --data.root {root} --data.val_split 5 --run_dir {tmp_path}/held")
    assert "of 5 val images stand in train, too, byte for byte" in result.out


def test_images_of_one_length_or_one_beginning_are_no_copies(root):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for number in range(3):  # one length, and one beginning of 4,096 bytes
        noise[-1, -1] = number
        Image.fromarray(noise).save(root / "train" / "cat" / f"{number}.bmp")
        Image.fromarray(255 - noise).save(root / "val" / "cat" / f"{number}.bmp")
    (root / "val" / "dog" / "same.bmp").write_bytes((root / "train" / "cat" / "1.bmp").read_bytes())
    data = ImageFolder(root=str(root), batch_size=4)
    assert [line.partition(": keep")[0] for line in data.notices()] == [
        "warning: 1 of 8 val images stand in train, too, byte for byte: val/dog/same.bmp is train/cat/1.bmp; keep each "
        "in one part"
    ]


def test_of_too_many_a_part_is_compared_and_said(root, monkeypatch):
    sizes = np.repeat(np.arange(100, 200), 3)
    monkeypatch.setattr(twins, "MOST", 90)
    alike, compared = twins.candidates(sizes)
    assert compared == alike.sum() == 90
    assert not twins.candidates(np.arange(1, 300))[0].any()


def test_images_in_memory(monkeypatch):
    load = Digits.load

    def leaking(self, train):
        pictures, labels = load(self, train)
        if not train:
            pictures = pictures.clone()
            pictures[0] = load(self, True)[0][3]
        return pictures, labels

    assert Digits().notices() == []
    monkeypatch.setattr(Digits, "load", leaking)
    (line,) = Digits().notices()
    assert "1 of 359 test images stand in train, too, byte for byte: image 0 of test is image 3 of train" in line


# -- a single class -------------------------------------------------------------------------------


def nested(root: Path, to: str) -> None:
    for split in ("train", "val"):
        shutil.move(root / split, root / "old")
        (root / split / to).parent.mkdir(parents=True)
        shutil.move(root / "old", root / split / to)


@pytest.mark.parametrize("to", ["photos", "photos/2024", "images/all/jpg"])
@pytest.mark.parametrize("kind", ["tree", "tar"])
def test_a_single_class_is_refused_with_the_level_that_looks_right(cli, root, tmp_path, to, kind):
    nested(root, to)
    place = root if kind == "tree" else images.tar(root, tmp_path / "a.tar")
    result = cli(f"{LINE} --data.root {place} --run_dir {tmp_path}/run")
    assert result.status == 2
    assert f"all 8 training images are of one class, {to.partition('/')[0]}" in result.err
    assert f"The folders in train/{to} look like the classes: cat, dog" in result.err
    assert not (tmp_path / "run").exists()


def test_a_single_class_and_no_level_that_looks_right(cli, tmp_path):
    root = images.tree(tmp_path / "t", classes=("cat",), train=8, val=2)
    result = cli(f"{LINE} --data.root {root} --run_dir {tmp_path}/run")
    assert result.status == 2
    assert "Each class has a folder of its own" in result.err
    assert ImageFolder(root=str(root), batch_size=4).labels("val").tolist() == [0, 0]  # which may well be evaluated


def test_parts_taken_for_classes_and_a_level_too_high_or_low(cli, root, tmp_path):
    shutil.copytree(root, tmp_path / "outer" / "train")
    result = cli(f"{LINE} --data.root {tmp_path}/outer --run_dir {tmp_path}/run")
    assert result.status == 2
    assert f"look like its parts\nGive {tmp_path}/outer/train as --data.root" in result.err
    shutil.rmtree(tmp_path / "outer")
    for place in (tmp_path, root / "train"):
        result = cli(f"{LINE} --data.root {place} --run_dir {tmp_path}/run")
        assert result.status == 2
        assert f"{root} has a train/: is it meant?" in result.err


# -- a stale index --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "images", "images/deeper/still"])
def test_files_that_come_and_go_below_a_class_are_noticed(tmp_path, place):
    root = images.tree(tmp_path / "t", classes=("cat", "dog"), train=2, val=1)
    folder = root / "train" / "cat" / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jpg").write_bytes(images.jpeg(1))
    assert len(Source(root).labels("train")) == 5
    assert Source(root).made == 0
    (folder / "b.jpg").write_bytes(images.jpeg(2))
    assert len(Source(root).labels("train")) == 6
    (folder / "a.jpg").unlink()
    assert len(Source(root).labels("train")) == 5
    (folder / "new").mkdir()
    assert Source(root).made > 0
    (folder / "new" / "c.jpg").write_bytes(images.jpeg(3))
    assert len(Source(root).labels("train")) == 6
    shutil.rmtree(folder / "new")
    assert len(Source(root).labels("train")) == 5


def test_pack_notices_them_too(cli, root, tmp_path):
    (root / "train" / "cat" / "images").mkdir()
    (root / "train" / "cat" / "images" / "a.jpg").write_bytes(images.jpeg(1))
    assert cli(f"pack {root} {tmp_path}/packed").status == 0
    assert cli(f"pack {root} {tmp_path}/packed").out.endswith("packed already\n")
    (root / "train" / "cat" / "images" / "b.jpg").write_bytes(images.jpeg(2))
    assert "source differ" in cli(f"pack {root} {tmp_path}/packed").err


def test_a_vanished_file_s_message_names_the_index(root, monkeypatch):
    source = Source(root)
    files(root, "val")[0].unlink()
    with pytest.raises(ValueError, match=rf"the index was made: {root}/{INDEX}\nPut it back, or remove the index"):
        source.read("val", 0)


def refused(cli, root: Path) -> str:
    result = cli(f"{LINE} --data.root {root} --run_dir {root}/run")
    assert result.status == 2
    assert "--data.index_dir" not in result.err
    assert not list(root.rglob(f"*{INDEX}"))
    return result.err


def test_what_cannot_be_read_while_indexing_is_named(cli, root, monkeypatch):
    link = root / "train" / "cat" / "gone.jpg"
    link.symlink_to(root / "nowhere.jpg")
    assert f"cannot read {link}: a link to nothing" in refused(cli, root)
    link.unlink()
    link.symlink_to(link)
    assert f"cannot read {link}: Too many levels of symbolic links" in refused(cli, root)
    link.unlink()
    loop = root / "val" / "dog" / "again"
    loop.symlink_to(root / "val")
    assert f"{loop} is a link to a folder above it" in refused(cli, root)
    loop.unlink()
    scan = os.scandir

    def closed(path):
        if str(path).endswith("val/dog"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert f"cannot read {root}/val/dog: Permission denied" in refused(cli, root)


def test_an_index_of_before_is_made_anew(root):
    first = Source(root)
    content = first.index.path.read_bytes().replace(b'"format":"2"', b'"format":"1"')
    first.index.path.write_bytes(content)
    assert Source(root).made > 0


def test_a_tar_s_special_members_are_not_read(tmp_path, root):
    path = images.tar(root, tmp_path / "a.tar")
    with tarfile.open(path, "a") as archive:
        pipe = tarfile.TarInfo("train/cat/pipe.jpg")
        pipe.type = tarfile.FIFOTYPE
        archive.addfile(pipe, io.BytesIO())
    source = Source(path)
    assert len(source.labels("train")) == 8
    assert source.notes() == ["not read: 1 files that are no images of a known kind: train/cat/pipe.jpg"]
