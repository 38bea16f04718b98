"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official files, binary or python."""

from __future__ import annotations

import importlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reslightning.data.download import download
from reslightning.data.memory import InMemory
from reslightning.errors import UserError

PIXELS = 3 * 32 * 32
SITE = "https://www.cs.toronto.edu/~kriz/"


class Distribution(NamedTuple):
    """One official distribution: a folder of files, also to be had as one archive."""

    folder: str
    archive: str
    md5: str
    train: dict[str, int]  # file name: number of images
    test: dict[str, int]


_CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class _CIFAR(InMemory):
    binary: ClassVar[Distribution]
    python: ClassVar[Distribution]
    label_bytes: ClassVar[int]  # the class is the last of them
    label_key: ClassVar[bytes]
    site: ClassVar[str] = SITE

    def prepare_data(self) -> None:
        """Download the binary archive if the data is missing and ``download`` says so."""
        if self.download and self._found() is None:
            self.fetch(self.root)

    def to_stage(self) -> Path | None:
        """Return the official folder, or the archive."""
        found = self._found()
        return found[1] if found else None

    @classmethod
    def fetch(cls, to: Path) -> Path:
        """Download the binary archive into ``to``, checksummed, and return its path."""
        path = to / cls.binary.archive
        download(cls.site + cls.binary.archive, path, f"md5:{cls.binary.md5}")
        return path

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return 50,000 training or 10,000 test images [N, 3, 32, 32], uint8, with labels [N]."""
        found = self._found()
        if found is None:
            names = [n for layout in (self.binary, self.python) for n in (layout.folder, layout.archive)]
            raise UserError(
                f"no {type(self).__name__} under {self.root.resolve()}\nlooked for: {', '.join(names)}\n"
                "Give its place as --data.root, or fetch it: reslightning fetch "
                f"{type(self).__name__.lower()} --to {self.root}  (or --data.download true)"
            )
        layout, place = found
        parse = self._parse_binary if layout is self.binary else self._parse_python
        parts = [
            parse(content, images, name)
            for name, images, content in _read(layout, place, layout.train if train else layout.test)
        ]
        images = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([labels for _, labels in parts])
        return torch.from_numpy(images), torch.from_numpy(labels)

    def _found(self) -> tuple[Distribution, Path] | None:
        for layout in (self.binary, self.python):
            for place in (self.root / layout.folder, self.root):
                if place.name == layout.folder and place.is_dir():
                    return layout, place
        for layout in (self.binary, self.python):
            if (self.root / layout.archive).is_file():
                return layout, self.root / layout.archive
        return None

    def _parse_binary(self, content: bytes, images: int, name: str) -> tuple[Any, Any]:
        record = self.label_bytes + PIXELS
        if len(content) != images * record:
            raise UserError(
                f"{name} has {len(content):,} bytes; expected {images * record:,} ({images:,} records of "
                f"{record} bytes)\nThe file is truncated or another one: fetch it again."
            )
        records = np.frombuffer(content, np.uint8).reshape(images, record)
        labels = records[:, self.label_bytes - 1].astype(np.int64)
        self._check_labels(labels, name)
        return records[:, self.label_bytes :], labels

    def _parse_python(self, content: bytes, images: int, name: str) -> tuple[Any, Any]:
        try:
            batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
            pixels, labels = batch[b"data"], np.asarray(batch[self.label_key], np.int64)
            whole = pixels.shape == (images, PIXELS) and pixels.dtype == np.uint8 and len(labels) == images
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        except Exception as error:  # a damaged pickle raises almost anything
            raise UserError(
                f"{name} ({len(content):,} bytes) is truncated or no official batch: expected a pickle of "
                f"{images:,} images; fetch it again"
            ) from error
        if not whole:
            raise UserError(
                f"{name} holds data of shape {pixels.shape} with {len(labels):,} labels; expected "
                f"({images}, {PIXELS}) bytes with {images:,} labels\nFetch it again."
            )
        self._check_labels(labels, name)
        return pixels, labels

    def _check_labels(self, labels: Any, name: str) -> None:
        if labels.min() < 0 or labels.max() >= self.num_classes:
            worst = labels.max() if labels.min() >= 0 else labels.min()
            raise UserError(
                f"{name} has the label {worst}; expected 0 to {self.num_classes - 1}: it is not {type(self).__name__}"
            )


class CIFAR10(_CIFAR):
    """60,000 images of 32 x 32 pixels in ten classes; options as InMemory."""

    num_classes = 10
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    own_mean = (0.4914, 0.4822, 0.4465)
    own_std = (0.2470, 0.2435, 0.2616)
    label_bytes = 1
    label_key = b"labels"
    binary = Distribution(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        {f"data_batch_{i}.bin": 10_000 for i in range(1, 6)},
        {"test_batch.bin": 10_000},
    )
    python = Distribution(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        {f"data_batch_{i}": 10_000 for i in range(1, 6)},
        {"test_batch": 10_000},
    )


class CIFAR100(_CIFAR):
    """60,000 images of 32 x 32 pixels in a hundred classes; options as InMemory."""

    num_classes = 100
    class_names = tuple(_CIFAR100_NAMES.split())
    own_mean = (0.5071, 0.4865, 0.4409)
    own_std = (0.2673, 0.2564, 0.2762)
    label_bytes = 2  # superclass, class
    label_key = b"fine_labels"
    binary = Distribution(
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        {"train.bin": 50_000},
        {"test.bin": 10_000},
    )
    python = Distribution(
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        {"train": 50_000},
        {"test": 10_000},
    )


def _read(layout: Distribution, place: Path, files: dict[str, int]) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, number of images and content of files in a folder or an unpacked archive."""
    if place.is_dir():
        for name, images in files.items():
            try:
                yield str(place / name), images, (place / name).read_bytes()
            except OSError as error:
                raise UserError(
                    f"cannot read {place / name}: {error.strerror}\nexpected {images:,} images in it; "
                    f"a whole {layout.folder} has {', '.join([*layout.train, *layout.test])}"
                ) from error
        return
    try:
        with tarfile.open(place) as archive:
            members = {Path(member.name).name: member for member in archive}
            for name, images in files.items():
                if name not in members:
                    raise tarfile.ReadError(f"there is no {name} in it")
                content = archive.extractfile(members[name])
                if content is None:
                    raise tarfile.ReadError(f"{name} is no file")
                yield f"{place}:{name}", images, content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{place} ({place.stat().st_size:,} bytes) is truncated or no archive: {error}\n"
            f"expected the official {layout.archive}, md5 {layout.md5}; fetch it again"
        ) from error


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds arrays, lists and strings, and refuses everything else a pickle may call."""

    ALLOWED: ClassVar[dict[tuple[str, str], str]] = {
        (f"numpy.{core}.multiarray", "_reconstruct"): "numpy._core.multiarray" for core in ("core", "_core")
    } | {
        ("numpy", "ndarray"): "numpy",
        ("numpy", "dtype"): "numpy",
        ("_codecs", "encode"): "_codecs",  # how Python 3 writes bytes for Python 2
    }

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few names an array's pickle needs."""
        if (module, name) not in self.ALLOWED:
            raise UserError(
                f"the pickle asks for {module}.{name}, which no official batch does, and is not opened: "
                "it could execute code"
            )
        return getattr(importlib.import_module(self.ALLOWED[module, name]), name)
