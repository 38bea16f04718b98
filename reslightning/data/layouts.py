"""How a source of images is laid out, and what it holds: one walk over folders or tar headers."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from reslightning.data.labels import label_file
from reslightning.data.registry import SPLITS
from reslightning.errors import UserError

SUFFIXES = (".jpeg", ".jpg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KAGGLE = Path("ILSVRC") / "Data" / "CLS-LOC"
BLOCK = 512  # bytes, a tar's unit


@dataclass(frozen=True)
class SourceLayout:
    """How a source is laid out.

    Attributes:
        kind: an image tree, the official ImageNet tars, or tars of split/class/file.
        root: the folder that names and files are relative to.
        files: the tars, or a tree's folders of splits.
        labels: the file that gives a flat val/ its classes, if there is one.
    """

    kind: Literal["tree", "official", "tars"]
    root: Path
    files: tuple[Path, ...]
    labels: Path | None


def find_layout(root: Path) -> SourceLayout:
    """Return what lies at ``root``, a folder or a tar.

    Raises:
        UserError: nothing that is known; the message says what was looked for.
    """
    if root.is_file():
        return SourceLayout("tars", root.parent, (root,), label_file(root.parent))
    if (root / TRAIN_TAR).is_file():
        if not (root / VAL_TAR).is_file():
            raise UserError(f"{root} has {TRAIN_TAR}, but no {VAL_TAR}\nPut it beside, or give another --data.root.")
        return SourceLayout("official", root, (root / TRAIN_TAR, root / VAL_TAR), label_file(root))
    for folder in (root, root / KAGGLE):
        if splits := tuple(folder / split for split in SPLITS if (folder / split).is_dir()):
            return SourceLayout("tree", folder, splits, label_file(root) or label_file(folder))
    if tars := tuple(sorted(root.glob("*.tar"))):
        return SourceLayout("tars", root, tars, label_file(root))
    raise UserError(
        f"no images under {root.absolute()}\nlooked for: train/CLASS/FILE and val/, {KAGGLE}/train, "
        f"{TRAIN_TAR} with {VAL_TAR}, or tars of SPLIT/CLASS/FILE\nGive their place as --data.root."
    )


def stamp(layout: SourceLayout) -> str:
    """Return what an index is checked against: size and time of the tars, or time of a tree's folders."""
    paths = list(layout.files) + ([layout.labels] if layout.labels else [])
    if layout.kind == "tree":
        paths += [
            Path(entry) for split in layout.files for entry in sorted(os.scandir(split), key=_name) if _dir(entry)
        ]
    facts = []
    for path in paths:
        found = path.stat()
        size = 0 if path.is_dir() else found.st_size  # a folder's size is the file system's affair
        facts.append((os.path.relpath(path, layout.root), size, found.st_mtime_ns))
    return json.dumps([layout.kind, facts])


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _dir(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


# -- what a source holds ------------------------------------------------------------------------


class Member(NamedTuple):
    """An image, or a class's folder (size -1): its path, split/class/... or split/..., and its bytes' place."""

    path: str
    file: int
    offset: int
    size: int


def members(layout: SourceLayout) -> Iterator[Member]:
    """Yield a source's images and folders in any order; paths begin with train/, val/ or test/."""
    if layout.kind == "tree":
        for split in layout.files:
            yield from _tree(layout.root, split)
    elif layout.kind == "official":
        yield from _official_train(layout.files[0])
        for name, offset, size in _walk(layout.files[1]):
            yield Member(f"val/{name}", 1, offset, size)
    else:
        for number, path in enumerate(layout.files):
            for name, offset, size in _walk(path):
                parts = [part for part in name.split("/") if part not in ("", ".")]
                first = next((k for k in (0, 1) if len(parts) > k + 1 and parts[k] in SPLITS), None)
                if first is not None:
                    yield Member("/".join(parts[first:]), number, offset, size)


def _tree(root: Path, folder: Path) -> Iterator[Member]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = os.path.relpath(entry.path, root)
            if _dir(entry):
                yield Member(path, 0, 0, -1)
                yield from _tree(root, Path(entry.path))
            elif _is_image(entry.name):
                yield Member(path, 0, 0, entry.stat().st_size)


def _official_train(path: Path) -> Iterator[Member]:
    """Yield the images of a tar of one tar a class, none of them unpacked."""
    with path.open("rb") as file:
        for name, start, size in _walk(path):
            wnid = name.removesuffix(".tar")
            if size < 0 or wnid == name:
                continue
            yield Member(f"train/{wnid}", 0, 0, -1)
            for image, offset, length in _walk(path, _Window(file, start, size), name):
                yield Member(f"train/{wnid}/{image}", 0, start + offset, length)


def _walk(path: Path, window: _Window | None = None, inner: str = "") -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of a tar's images, tars and folders (size -1), in constant memory."""
    where = f"{path}:{inner}" if inner else str(path)
    try:
        with tarfile.open(None if window else path, "r:", fileobj=window) as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members = []  # a million of them would fill the memory
                if _hidden(member.name):
                    continue
                if (member.islnk() or member.issym()) and _is_image(member.name):
                    raise UserError(
                        f"{where} holds a link in place of an image: {member.name}\nMake the tar with tar "
                        "--dereference --hard-dereference, or with reslightning pack."
                    )
                if member.isdir():
                    yield member.name, 0, -1
                elif member.isreg() and (_is_image(member.name) or member.name.endswith(".tar")):
                    yield member.name, member.offset_data, member.size
            end = archive.offset
            archive.fileobj.seek(end)
            if archive.fileobj.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError("the end is missing")
    except tarfile.TarError as error:
        size = path.stat().st_size
        compressed = " (compressed? it must be a plain tar)" if path.suffix in (".gz", ".tgz", ".xz", ".bz2") else ""
        raise UserError(
            f"{where} is cut or no tar{compressed}: {error}\n{path.name} has {size:,} bytes: copy or download it again."
        ) from error


class _Window:
    """A part of a file, for tarfile to read as a file of its own."""

    def __init__(self, file, start: int, size: int) -> None:  # type: ignore[no-untyped-def]
        self.file, self.start, self.size, self.position = file, start, size, 0
        self.name = file.name

    def seek(self, position: int, whence: int = 0) -> int:
        assert whence == 0
        self.position = position
        return position

    def tell(self) -> int:
        return self.position

    def read(self, count: int) -> bytes:
        count = max(min(count, self.size - self.position), 0)
        content = os.pread(self.file.fileno(), count, self.start + self.position)
        self.position += len(content)
        return content


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _is_image(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.lower().endswith(SUFFIXES) and not last.startswith(".")
