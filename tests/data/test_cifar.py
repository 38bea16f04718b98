"""CIFAR in every official form, and every way its files can be wrong."""

import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from reslightning.data import CIFAR10, CIFAR100
from reslightning.errors import UserError

COUNT = 40


def arrays(seed, classes):
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (COUNT, 3072), dtype=np.uint8)
    return pixels, generator.integers(0, classes, COUNT, dtype=np.uint8)


def write(kind, folder, *, python):
    """Write a small data set in an official layout; the reader's counts are made to match."""
    layout = kind.python if python else kind.binary
    (folder / layout.folder).mkdir(parents=True)
    for number, name in enumerate([*layout.train, *layout.test]):
        pixels, labels = arrays(number, kind.num_classes)
        path = folder / layout.folder / name
        if python:
            path.write_bytes(pickle.dumps({b"data": pixels, kind.label_key: labels.tolist()}, protocol=2))
        else:
            columns = [labels[:, None]] * kind.label_bytes
            path.write_bytes(np.concatenate([*columns, pixels], axis=1).tobytes())


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for kind in (CIFAR10, CIFAR100):
        for name in ("binary", "python"):
            layout = getattr(kind, name)
            small = layout._replace(train=dict.fromkeys(layout.train, COUNT), test=dict.fromkeys(layout.test, COUNT))
            monkeypatch.setattr(kind, name, small)


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("archived", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("python", [False, True], ids=["binary", "python"])
def test_every_official_form_holds_the_same_images(tmp_path, kind, python, archived):
    write(kind, tmp_path, python=python)
    layout = kind.python if python else kind.binary
    root = tmp_path
    if archived:
        root = tmp_path / "archives"
        root.mkdir()
        with tarfile.open(root / layout.archive, "w:gz") as archive:
            archive.add(tmp_path / layout.folder, layout.folder)
    data = kind(root=str(root), batch_size=8)
    images, labels = data.load(train=True)
    expected = [arrays(number, kind.num_classes) for number in range(len(layout.train))]
    assert torch.equal(images, torch.from_numpy(np.concatenate([p for p, _ in expected])).reshape(-1, 3, 32, 32))
    assert labels.tolist() == np.concatenate([found for _, found in expected]).tolist()
    assert len(kind.class_names) == len(set(kind.class_names)) == kind.num_classes


def test_numpys_older_pickles_are_read(tmp_path):
    write(CIFAR10, tmp_path, python=True)
    path = tmp_path / CIFAR10.python.folder / "test_batch"
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    images, _ = CIFAR10(root=str(tmp_path)).load(train=False)
    assert torch.equal(images.reshape(COUNT, -1), torch.from_numpy(arrays(5, 10)[0]))


def test_a_symlinked_relative_read_only_root(tmp_path):
    write(CIFAR10, tmp_path / "real", python=False)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for path in [*(tmp_path / "real").rglob("*"), tmp_path / "real"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    data = CIFAR10(root="link", batch_size=8)
    data.setup()
    assert data.n_samples("train") == 5 * COUNT
    (tmp_path / "real").chmod(0o755)


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_a_pickle_is_not_executed(tmp_path):
    write(CIFAR10, tmp_path, python=True)
    (tmp_path / CIFAR10.python.folder / "test_batch").write_bytes(pickle.dumps({b"data": Payload()}))
    with pytest.raises(UserError, match="mkdir"):
        CIFAR10(root=str(tmp_path)).load(train=False)
    assert not (tmp_path / "executed").exists()


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:-100])
    elif how == "longer":
        path.write_bytes(content + b"0")
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "longer"])
@pytest.mark.parametrize("python", [False, True], ids=["binary", "python"])
def test_damaged_files_are_named_with_what_was_expected(tmp_path, python, how):
    if python and how == "longer":
        return  # bytes behind a pickle's end mean nothing
    write(CIFAR10, tmp_path, python=python)
    layout = CIFAR10.python if python else CIFAR10.binary
    path = tmp_path / layout.folder / list(layout.train)[2]
    damage(path, how)
    with pytest.raises(UserError, match="expected") as error:
        CIFAR10(root=str(tmp_path)).load(train=True)
    assert str(path) in str(error.value)


def test_labels_of_another_data_set_are_refused(tmp_path):
    write(CIFAR10, tmp_path, python=False)
    path = tmp_path / CIFAR10.binary.folder / "test_batch.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(UserError, match="the label 10; expected 0 to 9"):
        CIFAR10(root=str(tmp_path)).load(train=False)


def test_a_truncated_archive(tmp_path):
    write(CIFAR10, tmp_path, python=False)
    path = tmp_path / "archives" / CIFAR10.binary.archive
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / CIFAR10.binary.folder, CIFAR10.binary.folder)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
    for content in (b"\x1f\x8b cut", b"", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="truncated or no archive"):
            CIFAR10(root=str(path.parent)).load(train=True)


def test_an_empty_root_says_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"cifar-10-batches-bin, cifar-10-binary\.tar\.gz"):
        CIFAR10(root=str(tmp_path)).load(train=True)


def test_the_real_data_set(cifar_root, monkeypatch):
    monkeypatch.undo()
    data = CIFAR10(root=str(cifar_root), val_split=5000)
    assert [data.n_samples(split) for split in ("train", "val", "test")] == [45_000, 5_000, 10_000]
    assert torch.bincount(data.labels("test")).tolist() == [1000] * 10
    data = CIFAR10(root=str(cifar_root), crop_padding=0)
    data.setup()
    sums = data.load(train=True)[0].sum((0, 2, 3))
    torch.testing.assert_close(sums / (50_000 * 32 * 32 * 255), torch.tensor(CIFAR10.own_mean), rtol=0, atol=1e-3)
