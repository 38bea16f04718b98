"""Where image files are read from: an image tree, ImageNet's tars as downloaded, or tars of split/class/file.

An index says where every image's bytes are. It is made once, and mapped into memory by every
process of a machine. Nothing is ever unpacked.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np

from reslightning.data.indexing import FORMAT, write_index
from reslightning.data.layouts import SourceLayout, file_facts, find_layout, stamp, stamp_now
from reslightning.data.registry import SPLITS
from reslightning.errors import UserError
from reslightning.files import exclusive

TYPES = {"U8": np.uint8, "I32": np.int32, "I64": np.int64}  # as safetensors names them
INDEX = "reslightning-index.safetensors"
LOOKED_AT = 256  # images whose bytes a digest is of


class Source:
    """The images of a source by split and position, in an order that every kind of source shares.

    Args:
        root: a folder or a tar.
        index_dir: where the index goes if it cannot be written beside the source.

    Attributes:
        classes: the classes' folder names, sorted; a label is a position among them.
        made: seconds that making the index took; 0 where it was there.

    Raises:
        UserError: no images are found, or a class or a file is not as it must be.
    """

    unread: ClassVar[WeakSet[Source]] = WeakSet()  # whose indices this process made, and nothing was trained on yet

    def __init__(self, root: Path, index_dir: Path | None = None) -> None:
        self.layout = find_layout(root)
        self.made = 0.0
        places = [root / INDEX if root.is_dir() else root.with_name(f"{root.name}.{INDEX}")]
        if index_dir is not None:
            now = stamp(self.layout, file_facts(self.layout))
            key = hashlib.sha256(now.encode()).hexdigest()[:12]  # also of a copy
            places.append(index_dir / f"{root.name}-{key}.{INDEX}")
        self._folders: list[Path] = []  # that were made for the index
        there = (Index.open(place, self.layout) for place in places)
        self.index = next(filter(None, there), None) or self._make(places)
        self._handles: dict[int, int] = {}

    def __getstate__(self) -> dict[str, object]:
        """Leave out what belongs to one process alone: a loader's worker opens files of its own."""
        return self.__dict__ | {"_handles": {}}

    def used(self) -> Source:
        """Keep the index whatever happens from now on, and return the source."""
        self.unread.discard(self)
        return self

    def withdraw(self) -> None:
        """Remove an index that was made for nothing."""
        with contextlib.suppress(OSError):
            self.index.path.unlink()
            for folder in self._folders:
                folder.rmdir()

    @property
    def classes(self) -> list[str]:
        """The classes' folder names, sorted; a label is a position among them."""
        return self.index.classes

    def labels(self, split: str) -> np.ndarray:
        """Return a split's labels [N], int32; empty where there is no such split."""
        return self.index.column(split, "label")

    def digest(self) -> str:
        """Return sixteen hexadecimal digits that name the content: the same of a tree and of its images in tars.

        They come from the classes, from every image's split, label, file name and length, and from the bytes of
        LOOKED_AT images: another picture of the same name and length may go unseen, and a resized one is another.
        """
        found = hashlib.sha256(json.dumps(self.classes).encode())
        for split in SPLITS:
            for column in self.index.listing(split):
                found.update(column.data)
        counts = [len(self.labels(split)) for split in SPLITS]
        chance = np.random.default_rng(int(found.hexdigest()[:16], 16))
        for place in chance.choice(sum(counts), min(LOOKED_AT, sum(counts)), replace=False).tolist():
            number = 0
            while place >= counts[number]:
                place, number = place - counts[number], number + 1
            found.update(hashlib.sha256(self.read(SPLITS[number], place)).digest())
        return found.hexdigest()[:16]

    def read(self, split: str, position: int) -> bytes:
        """Return the bytes of an image file.

        Raises:
            UserError: they cannot be read in full.
        """
        file, offset, size = self.index.place(split, position)
        try:
            if self.layout.kind == "tree":
                content = _regular(Path(self.describe(split, position)))
            else:
                if file not in self._handles:
                    path = self.layout.root / self.index.files[file]
                    self._handles[file] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                content = os.pread(self._handles[file], size, offset)
        except OSError as error:
            changed = (
                f"\nIt was moved or removed since the index was made: {self.index.path}\nPut it back, or remove the "
                "index, and the same command makes it anew."
            )
            gone = changed if isinstance(error, FileNotFoundError | NotADirectoryError) else ""
            raise UserError(f"cannot read {self.describe(split, position)}: {error.strerror}{gone}") from error
        if len(content) != size and self.layout.kind != "tree":  # a file may have been replaced
            raise UserError(
                f"{self.describe(split, position)} has {len(content):,} of {size:,} bytes\nIt was changed or cut since "
                f"its index was made: {self.index.path}"
            )
        return content

    def describe(self, split: str, position: int) -> str:
        """Return an image's path; within a tar with the byte where it begins."""
        name = self.index.name(split, position)
        if self.layout.kind == "tree":
            return f"{self.layout.root}/{name}"
        file, offset, _ = self.index.place(split, position)
        return f"{self.layout.root / self.index.files[file]}:{name} at byte {offset:,}"

    def notes(self) -> list[str]:
        """Return lines on the files that are not read as they are: other formats, further frames."""
        others, animated = self.index.notes["others"], self.index.notes["animated"]
        lines = []
        if (bare := self.index.notes.get("unlabelled")) and bare["count"]:
            lines.append(f"not read: {bare['count']:,} test images in no class's folder: {bare['shown']}")
        if others["count"]:
            lines.append(f"not read: {others['count']:,} files that are no images of a known kind: {others['shown']}")
        if animated["count"]:
            lines.append(f"first frames: {animated['count']:,} images have several: {animated['shown']}")
        return lines

    def _make(self, places: Sequence[Path]) -> Index:
        """Make the index where it can be written first, or wait for the process that does."""
        problem: OSError | None = None
        for place in places:
            try:
                self._folders = [folder for folder in place.parents if not folder.exists()]
                place.parent.mkdir(parents=True, exist_ok=True)
                with exclusive(place.with_name(f".{place.name}.lock")):
                    if (index := Index.open(place, self.layout)) is None:
                        started = time.monotonic()
                        write_index(place, self.layout)
                        self.made = time.monotonic() - started
                        self.unread.add(self)
                        index = Index.open(place, self.layout)
            except OSError as error:
                problem = error
                continue
            if index is None:
                raise UserError(f"{self.layout.root} was changed while it was indexed; start again when it rests")
            return index
        assert problem is not None
        raise UserError(
            f"cannot write the index of {self.layout.root} to {places[-1].parent}: {problem.strerror}\n"
            "Give a folder that can be written as --data.index_dir: the index is made once, not once a run."
        )


@contextlib.contextmanager
def withdrawn() -> Iterator[None]:
    """Remove the indices of what is refused before an image of it was used."""
    try:
        yield
    except UserError:
        for source in Source.unread:
            source.withdraw()
        raise
    finally:
        Source.unread.clear()


def _regular(path: Path) -> bytes:
    """Return a file's bytes; what has become a pipe or a device since is not opened: it may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return path.read_bytes()


class Index:
    """A safetensors file, mapped into memory: the operating system keeps one copy for all processes.

    safetensors' own reader would copy the arrays, or import torch.
    """

    def __init__(self, path: Path) -> None:
        """Map a file; raises OSError or ValueError where there is no whole one."""
        with path.open("rb") as file:
            start = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(start, path.stat().st_size)))
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        whole = np.memmap(path, np.uint8, mode="r", offset=8 + start)
        self._columns = {
            name: np.asarray(whole[slice(*column["data_offsets"])]).view(TYPES[column["dtype"]])
            for name, column in header.items()
        }
        self.path = path
        self.files: list[str] = json.loads(self.metadata.get("files", "[]"))
        self.notes: dict[str, Any] = json.loads(self.metadata.get("notes", "{}"))
        self.classes: list[str] = json.loads(self.metadata.get("classes", "[]"))

    def __reduce__(self) -> tuple[type[Index], tuple[Path]]:
        """Let another process map the file itself."""
        return Index, (self.path,)

    @classmethod
    def open(cls, path: Path, layout: SourceLayout) -> Index | None:
        """Return the index in a file; None where there is none of this format for a source as it is now."""
        try:
            index = cls(path)
            stamped = index.metadata["stamp"]
            fits = index.metadata["format"] == FORMAT and stamp_now(layout, stamped) == stamped
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        return index if fits else None

    def column(self, split: str, name: str) -> np.ndarray:
        """Return a split's label, file, offset, size or end (of its name) of every image."""
        return self._columns.get(f"{split}.{name}", np.empty(0, np.int32))

    def listing(self, split: str) -> list[np.ndarray]:
        """Return labels, lengths and file names of a split's images, one array each and the names in two."""
        label, size, end = (self.column(split, name) for name in ("label", "size", "end"))
        letters = self._columns.get(f"{split}.letters", np.empty(0, np.uint8))
        slashes = np.flatnonzero(letters == ord("/"))
        start = slashes[np.searchsorted(slashes, end) - 1] + 1 if len(end) else end
        inside = np.zeros(len(letters) + 1, np.int8)
        inside[start] += 1
        inside[end] -= 1
        return [label, size, end - start, letters[np.cumsum(inside[:-1], dtype=np.int8) > 0]]

    def place(self, split: str, position: int) -> tuple[int, int, int]:
        """Return file number, offset and size of an image."""
        file, offset, size = (self._columns[f"{split}.{name}"][position] for name in ("file", "offset", "size"))
        return int(file), int(offset), int(size)

    def name(self, split: str, position: int) -> str:
        """Return an image's path within its source."""
        ends = self._columns[f"{split}.end"]
        start = int(ends[position - 1]) if position else 0
        return os.fsdecode(bytes(self._columns[f"{split}.letters"][start : int(ends[position])]))
