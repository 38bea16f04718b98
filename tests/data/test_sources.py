"""Sources of image files: the same images in the same order whatever they lie in, and what is refused."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from reslightning.data.labels import imagenet_classes
from reslightning.data.sources import INDEX, Source
from reslightning.errors import UserError
from tests import images


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return images.tree(tmp_path_factory.mktemp("tree"))


def content(source: Source) -> dict[str, list[tuple[str, bytes]]]:
    return {
        split: [
            (source.classes[label], source.read(split, position)) for position, label in enumerate(source.labels(split))
        ]
        for split in ("train", "val", "test")
    }


def kinds(tree: Path, folder: Path) -> dict[str, Path]:
    return {
        "official": images.official(tree, folder / "official"),
        "kaggle": images.kaggle(tree, folder / "kaggle"),
        "tar": images.tar(tree, folder / "one.tar"),
        "tar below a folder": images.tar(tree, folder / "two.tar", prefix="./imagenet/"),
        "tars": images.tar(tree / "train", folder / "tars" / "a.tar", prefix="train/").parent,
    }


def test_every_kind_of_source_holds_the_same_images_in_the_same_order(tree, tmp_path):
    expected = content(Source(tree))
    assert [len(part) for part in expected.values()] == [32, 12, 0]
    assert [name for name, _ in expected["train"]] == [wnid for wnid in images.WNIDS for _ in range(8)]
    for name, root in kinds(tree, tmp_path).items():
        if name == "tars":
            images.tar(tree / "val", root / "b.tar", prefix="val/")
        assert content(Source(root)) == expected, name


@pytest.mark.parametrize("name", ["devkit", "devkit folder", "val.txt", "numbers", "one a line"])
def test_a_flat_val_gets_its_classes(tree, tmp_path, name):
    (tmp_path / "train").symlink_to(tree / "train")
    images.flatten(tree, tmp_path / "val")
    with pytest.raises(UserError, match="no file says their classes\nPut one of these beside"):
        Source(tmp_path)
    found = images.flat_val(tree)
    order = list(imagenet_classes())
    if name == "devkit":
        images.devkit(tree, tmp_path / "ILSVRC2012_devkit_t12.tar.gz")
    elif name == "devkit folder":
        images.devkit(tree, tmp_path / "kit.tar.gz")
        with tarfile.open(tmp_path / "kit.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
    elif name == "val.txt":
        (tmp_path / "val.txt").write_text("".join(f"val/{file} {wnid}\n" for file, (wnid, _) in found.items()))
    elif name == "numbers":
        lines = [f"{file} {order.index(wnid)}\n" for file, (wnid, _) in found.items()]
        (tmp_path / "val.txt").write_text("".join(lines))
    else:
        lines = [f"{wnid}\n" for wnid, _ in found.values()]
        (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text("".join(lines))
    assert content(Source(tmp_path))["val"] == content(Source(tree))["val"]


def test_imagenet_s_classes():
    classes = imagenet_classes()
    assert len(classes) == 1000
    assert list(classes) == sorted(classes)
    assert (classes["n01440764"], classes["n02123045"], classes["n15075141"]) == ("tench", "tabby", "toilet tissue")


def test_the_index_is_made_once_and_again_when_its_source_changed(tree, tmp_path):
    path = images.tar(tree, tmp_path / "a.tar")
    first = Source(path)
    assert first.made > 0
    assert (tmp_path / f"a.tar.{INDEX}").is_file()
    assert not list(tmp_path.glob("*.lock*")) + list(tmp_path.glob(".*"))
    assert Source(path).made == 0
    assert pickle.loads(pickle.dumps(first)).read("val", 3) == first.read("val", 3)
    with tarfile.open(path, "a") as archive:
        images.add(archive, "train/n01440764/new.JPEG", images.jpeg(0))
    again = Source(path)
    assert again.made > 0
    assert len(again.labels("train")) == 33
    (tmp_path / f"a.tar.{INDEX}").write_bytes(b"\x10\0\0\0")  # cut in the middle of being copied
    assert len(Source(path).labels("train")) == 33


def test_a_tree_s_index_notices_new_files(tree, tmp_path):
    root = images.tree(tmp_path / "t", train=2, val=1)
    assert len(Source(root).labels("train")) == 8
    (root / "train" / "n01440764" / "new.JPEG").write_bytes(images.jpeg(1))
    assert len(Source(root).labels("train")) == 9


@pytest.fixture
def read_only(tree, tmp_path):
    """A tar in a folder that cannot be written, not by root either."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a file system: {done.stderr.strip()}")
    images.tar(tree, folder / "a.tar")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    yield folder / "a.tar"
    subprocess.run(["umount", str(folder)], check=True)


def test_a_source_that_cannot_be_written(read_only, tmp_path):
    with pytest.raises(UserError, match=r"Give a folder that can be written as --data\.index_dir"):
        Source(read_only)
    assert Source(read_only, tmp_path / "new" / "indexes").made > 0
    assert Source(read_only, tmp_path / "new" / "indexes").made == 0


def _open(path, start, results):
    start.wait()
    source = Source(path)
    results.put((source.made > 0, len(source.labels("train"))))


def test_of_many_processes_one_makes_the_index(tree, tmp_path):
    path = images.tar(tree, tmp_path / "a.tar")
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=_open, args=(path, start, results)) for _ in range(6)]
    for process in processes:
        process.start()
    start.set()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(found) == [(False, 32)] * 5 + [(True, 32)]


# -- what is refused ----------------------------------------------------------------------------


def refused(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        Source(root)
    assert not list(root.parent.rglob(f"*{INDEX}"))
    return str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.37, 0.5, 0.83, 0.9])
def test_a_cut_tar(tree, tmp_path, share):
    path = images.tar(tree, tmp_path / "a.tar")
    os.truncate(path, int(path.stat().st_size * share))
    assert f"{path} is cut or no tar" in refused(path)


def test_a_tar_cut_between_two_images(tree, tmp_path):
    path = images.tar(tree, tmp_path / "a.tar")
    with tarfile.open(path) as archive:
        os.truncate(path, archive.getmembers()[20].offset)
    assert "the end is missing" in refused(path)


def test_a_cut_class_within_the_official_tar(tree, tmp_path):
    root = images.official(tree, tmp_path / "o")
    outer = root / "ILSVRC2012_img_train.tar"
    with tarfile.open(outer) as archive:
        member = archive.getmember("n01443537.tar")
    with outer.open("r+b") as file:
        file.seek(member.offset_data + 3 * member.size // 4)
        file.write(b"\xaa" * (member.size // 4))
    assert f"{outer}:n01443537.tar is cut or no tar" in refused(root)


def test_what_a_source_may_not_hold(tree, tmp_path):
    def changed(name: str, *extra: tuple[str, bytes]) -> str:
        path = images.tar(tree, tmp_path / name / "a.tar")
        with tarfile.open(path, "a") as archive:
            for member, data in extra:
                images.add(archive, member, data)
        return refused(path)

    image = images.jpeg(5)
    twice = changed("twice", ("train/n01440764/n01440764_3.JPEG", image))
    assert "train/n01440764/n01440764_3.JPEG is twice" in twice
    assert "at byte" in twice
    assert "val" in changed("unknown", ("val/n09999999/a.JPEG", image))
    assert "classes that train lacks: n09999999" in changed("unknown2", ("val/n09999999/a.JPEG", image))
    assert "two folders for what looks like one class" in changed("alike", ("train/N01440764/a.JPEG", image))
    assert "must lie in a folder for each class: train/a.JPEG" in changed("bare", ("train/a.JPEG", image))
    assert "no images" in refused(images.tar(tmp_path / "nothing", tmp_path / "empty" / "a.tar"))


def test_trees_that_are_refused(tmp_path):
    root = images.tree(tmp_path / "t", train=2, val=1)
    (root / "train" / "n00000001").mkdir()
    assert "train of" in refused(root)
    assert "has classes without images: n00000001" in refused(root)
    (tmp_path / "nothing").mkdir()
    assert "looked for: train/CLASS/FILE and val/" in refused(tmp_path / "nothing")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "ILSVRC2012_img_train.tar").touch()
    assert "no ILSVRC2012_img_val.tar" in refused(tmp_path / "half")


def test_a_compressed_tar(tree, tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tree, "x")
    assert "compressed? it must be a plain tar" in refused(tmp_path / "a.tar.gz")


def test_a_tar_that_is_cut_while_it_is_read(tree, tmp_path):
    path = images.tar(tree, tmp_path / "a.tar")
    source = Source(path)
    os.truncate(path, 2000)
    with pytest.raises(UserError, match=r"has [\d,]+ of [\d,]+ bytes\nIt was changed or cut since"):
        source.read("train", 31)


def test_a_file_that_was_replaced_in_place_is_read(tmp_path):
    root = images.tree(tmp_path / "t", train=2, val=1)
    source = Source(root)
    Path(source.describe("train", 3)).write_bytes(images.jpeg(99, 80, 80))
    assert Source(root).read("train", 3) == images.jpeg(99, 80, 80)


def test_names_that_are_not_utf_8(tmp_path):
    root = images.tree(tmp_path / "t", train=2, val=1)
    name = os.fsdecode(b"caf\xe9.jpg")
    (root / "train" / "n01440764" / name).write_bytes(images.jpeg(5))
    assert content(Source(root)) == content(Source(images.tar_of_everything(root, tmp_path / "a.tar")))


def test_links_and_hidden_folders_in_a_tar(tmp_path):
    root = images.tree(tmp_path / "t", train=2, val=1)
    folder = root / "train" / "n01440764"
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "a.JPEG").write_bytes(images.jpeg(5))
    expected = content(Source(root))
    assert content(Source(images.tar_of_everything(root, tmp_path / "a.tar"))) == expected
    os.link(folder / "n01440764_0.JPEG", folder / "same.JPEG")
    with pytest.raises(UserError, match="holds a link in place of an image"):
        Source(images.tar_of_everything(root, tmp_path / "b.tar"))


# -- a million ----------------------------------------------------------------------------------


MEASURE = """
import re, resource, sys, time
from pathlib import Path
from reslightning.data.sources import Source

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

before, started = resident(), time.perf_counter()
source = Source(Path(sys.argv[1]))
seconds = time.perf_counter() - started
assert len(source.labels("train")) == 1_300_000
assert len(source.read("train", 777_777)) == 10
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3
print(seconds, resident(), peak)
"""


@pytest.mark.slow
def test_a_million_entries(tmp_path):
    path = tmp_path / "big.tar"
    with path.open("wb") as file:
        for label in range(1000):
            for number in range(1300):
                member = tarfile.TarInfo(f"train/n{label:08}/n{label:08}_{number}.JPEG")
                member.size = 10
                file.write(member.tobuf(tarfile.USTAR_FORMAT) + b"0123456789".ljust(512, b"\0"))
        file.write(bytes(1024))

    def measured() -> tuple[float, float, float]:
        done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
        seconds, resident, peak = map(float, done.stdout.split())
        return seconds, resident, peak

    indexing, _, peak = measured()
    opening, resident, _ = measured()
    print(f"indexed in {indexing:.1f} s with {peak:.0f} MB, opened in {opening:.3f} s with {resident:.0f} MB")
    assert peak < 1000
    assert opening < 2
    assert resident < 300
