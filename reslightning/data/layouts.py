"""How a source of images is laid out, and what it holds: one walk over folders or tar headers."""

from __future__ import annotations

import errno
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from reslightning.data.labels import label_file
from reslightning.data.registry import SPLITS
from reslightning.errors import UserError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx", ".tga", ".mpo"),
)
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
    if tars := tuple(sorted(path for path in root.glob("*.tar") if path.is_file())):
        return SourceLayout("tars", root, tars, label_file(root))
    near = [root.absolute().parent, *(sorted(root.iterdir()) if root.is_dir() else [])]
    right = next((f"{place} has a train/: is it meant?\n" for place in near if (place / "train").is_dir()), "")
    classes = sorted(path.name for path in root.iterdir() if _has_images(path)) if root.is_dir() else []
    if classes and not right:
        raise UserError(
            f"{root.absolute()} has pictures in {', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}: your "
            "classes are here, and train/ and val/ are looked for\nMake a folder with train/ in it, mkdir NEW && ln -s "
            f"{root.absolute()} NEW/train, and give --data.root NEW --data.val_split N: N pictures held out."
        )
    raise UserError(
        f"no images under {root.absolute()}\n{right}looked for: train/CLASS/FILE and val/, {KAGGLE}/train, "
        f"{TRAIN_TAR} with {VAL_TAR}, or tars of SPLIT/CLASS/FILE\nGive their place as --data.root."
    )


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(is_image(path.name) for path in folder.iterdir())


Fact = tuple[str, int, int]  # a path relative to the source's root, size, and time of the last change


def file_facts(layout: SourceLayout) -> list[Fact]:
    """Return what an index is checked against of a source's tars or splits, and of what says its labels.

    Raises:
        UserError: one of them cannot be seen.
    """
    facts = []
    for path in [*layout.files, *([layout.labels] if layout.labels else [])]:
        try:
            found = path.stat()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        size = 0 if path.is_dir() else found.st_size  # a folder's size is the file system's affair
        facts.append((os.path.relpath(path, layout.root), size, found.st_mtime_ns))
    return facts


def stamp(layout: SourceLayout, facts: Iterable[Fact]) -> str:
    """Return the facts that an index was made of, as it keeps them: those of files, then of a tree's folders."""
    return json.dumps([layout.kind, list(facts)])


def stamp_now(layout: SourceLayout, stamped: str) -> str:
    """Return what an index's stamp would be now: new files and folders change the time of the folder they lie in.

    Raises:
        OSError: one of its folders is gone.
    """
    files = file_facts(layout)
    folders = [name for name, *_ in json.loads(stamped)[1][len(files) :]]
    return stamp(layout, [*files, *((name, 0, (layout.root / name).stat().st_mtime_ns) for name in folders)])


# -- what a source holds ------------------------------------------------------------------------


FOLDER, OTHER = -1, -2  # what stands for a size


class Member(NamedTuple):
    """An image, a folder (size FOLDER) or what is neither (OTHER): its path, split/class/..., and its bytes' place.

    A tree's folder has in place of an offset its time of the last change, from before it was read.
    """

    path: str
    file: int
    offset: int
    size: int


def members(layout: SourceLayout) -> Iterator[Member]:
    """Yield what a source holds, in any order; paths begin with train/, val/ or test/.

    Raises:
        UserError: a part of it cannot be read, and which.
    """
    if layout.kind == "tree":
        for split in layout.files:
            yield from _tree(layout.root, split)
    elif layout.kind == "official":
        yield from _official_train(layout.files[0])
        for name, offset, size in walk_tar(layout.files[1]):
            yield Member(f"val/{name}", 1, offset, size)
    else:
        for number, path in enumerate(layout.files):
            for name, offset, size in walk_tar(path):
                parts = [part for part in name.split("/") if part not in ("", ".")]
                first = next((k for k in (0, 1) if len(parts) > k + 1 and parts[k] in SPLITS), None)
                if first is not None:
                    yield Member("/".join(parts[first:]), number, offset, size)


def _tree(root: Path, folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Member]:
    """Yield a folder's files and folders; ``above`` are the device and number of those that lead to it."""
    place, prefix = str(folder), os.path.relpath(folder, root)
    try:
        found = folder.stat()
        here = (found.st_dev, found.st_ino)
        if here in above:
            raise UserError(f"{folder} is a link to a folder above it, without end\nRemove the link.")
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                place, path = entry.path, f"{prefix}/{entry.name}"
                kind = entry.stat()  # of what a link points to
                if stat.S_ISDIR(kind.st_mode):
                    yield Member(path, 0, kind.st_mtime_ns, FOLDER)
                    yield from _tree(root, Path(place), (*above, here))
                elif stat.S_ISREG(kind.st_mode) and is_image(entry.name):
                    yield Member(path, 0, 0, kind.st_size)
                else:
                    yield Member(path, 0, 0, OTHER)
    except OSError as error:
        dangling = error.errno == errno.ENOENT and Path(place).is_symlink()
        why = "a link to nothing" if dangling else error.strerror
        raise UserError(f"cannot read {place}: {why}\nMake it readable, or remove it.") from error


def _official_train(path: Path) -> Iterator[Member]:
    """Yield the images of a tar of one tar a class, none of them unpacked."""
    tars = list(walk_tar(path))
    with path.open("rb") as file:
        for name, start, size in tars:
            wnid = name.removesuffix(".tar")
            if size < 0 or wnid == name:
                continue
            yield Member(f"train/{wnid}", 0, 0, FOLDER)
            for image, offset, length in walk_tar(path, _Window(file, start, size), name):
                yield Member(f"train/{wnid}/{image}", 0, start + offset, length)


def walk_tar(path: Path, window: _Window | None = None, inner: str = "") -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of a tar's images and tars, and of folders and all else, in constant memory."""
    where = f"{path}:{inner}" if inner else str(path)
    try:
        with tarfile.open(None if window else path, "r:", fileobj=window) as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members = []  # a million of them would fill the memory
                if _hidden(member.name):
                    continue
                if (member.islnk() or member.issym()) and is_image(member.name):
                    raise UserError(
                        f"{where} holds a link in place of an image: {member.name}\nMake the tar with tar "
                        "--dereference --hard-dereference, or with reslightning pack."
                    )
                taken = member.isreg() and (is_image(member.name) or member.name.endswith(".tar"))
                if taken:
                    yield member.name, member.offset_data, member.size
                else:
                    yield member.name, 0, FOLDER if member.isdir() else OTHER
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
    except OSError as error:
        raise UserError(f"cannot read {where}: {error.strerror}\nMake it readable, or copy it again.") from error


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


def is_image(name: str) -> bool:
    """Whether a file's name is that of a picture of a known kind, and not hidden."""
    last = name.rpartition("/")[2]
    return last.lower().endswith(SUFFIXES) and not last.startswith(".")
