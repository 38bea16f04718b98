"""Pictures as they lie about: files, folders, tars, lists and standard input, by position; without torch."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from reslightning.data.layouts import FOLDER, OTHER, is_image, walk_tar
from reslightning.errors import UserError
from reslightning.files import printable

STDIN, LIST, TAR = "-", ".txt", ".tar"
SHOWN = 5  # names of what is not read
LOOKED_AT, SHORT = 100, 60  # lines of a list to tell whether it is one, and letters of one that is shown
TEXT = bytes({0, *range(9, 14), *range(32, 256)})  # what paths and what is between them consist of


class _Place(NamedTuple):
    name: str
    file: str
    offset: int = 0
    size: int | None = None  # of a part of a file; None is all of it


class Listing:
    """Pictures in the order in which they were given; folders and tars sorted within.

    A file may be of any name; of a folder's or a tar's files those with a picture's suffix are read, of a folder's tars
    too. A list is a text file, or standard input, of a path a line (or with zeros between them, as ``find -print0``
    writes). Standard input may be one picture, too.

    Args:
        places: paths, or ``-`` for standard input.
        stdin: standard input.

    Attributes:
        others: how many files of folders and tars are no pictures by their names.
        shown: the first of these.

    Raises:
        UserError: no picture is there.
    """

    def __init__(self, places: Sequence[str], stdin: BinaryIO | None = None) -> None:
        self.others, self.shown = 0, list[str]()
        self._content: bytes | None = None  # of standard input, where that is a picture
        self._stdin = stdin
        self._places: list[_Place] = []
        for place in places:
            before = len(self._places)
            self._places.extend(self._found(place))
            if len(self._places) == before:
                raise UserError(self._nothing(place))

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._places)

    def used(self) -> Listing:
        """Return itself: nothing is made for it."""
        return self

    def name(self, position: int) -> str:
        """Return what a picture is called: its path as given or found, within a tar behind the tar's."""
        return printable(self._places[position].name)

    def describe(self, split: str, position: int) -> str:
        """Return its name, for messages."""
        return self.name(position)

    def read(self, split: str, position: int) -> bytes:
        """Return a picture's bytes.

        Raises:
            UserError: they cannot be read.
        """
        place = self._places[position]
        if place.file == STDIN:
            assert self._content is not None
            return self._content
        try:
            if (kind := _kind(Path(place.file))) != "file":
                raise UserError(f"{self.name(position)}: {kind}")
            with Path(place.file).open("rb") as file:
                file.seek(place.offset)
                return file.read() if place.size is None else file.read(place.size)
        except OSError as error:
            raise UserError(f"{self.name(position)}: {error.strerror}") from error

    def note(self) -> str | None:
        """Return a line on files that are no pictures by their names; None where there is none."""
        if not self.others:
            return None
        more = f" and {self.others - len(self.shown):,} more" if self.others > len(self.shown) else ""
        return f"not read: {self.others:,} files that are no pictures by their names: {', '.join(self.shown)}{more}"

    def _found(self, place: str) -> Iterator[_Place]:
        if place == STDIN:
            yield from self._from_stdin()
            return
        path = Path(place)
        with contextlib.suppress(RuntimeError):  # of a user whom nobody knows
            path = path.expanduser()
        kind = _kind(path)
        if kind == "folder":
            yield from self._folder(str(path))
        elif kind == "file" and path.suffix.lower() == TAR:
            yield from self._tar(str(path))
        elif kind == "file" and path.suffix.lower() == LIST:
            try:
                yield from self._list(path.read_bytes(), printable(place))
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}") from error
        else:
            yield _Place(place, str(path))

    def _from_stdin(self) -> Iterator[_Place]:
        content = self._stdin.read() if self._stdin else b""
        if _is_picture(content):
            self._content = content
            yield _Place(STDIN, STDIN)
        else:
            yield from self._list(content, "standard input")

    def _list(self, content: bytes, where: str) -> Iterator[_Place]:
        lines = content.split(b"\0") if b"\0" in content else content.splitlines()
        names = [os.fsdecode(line.strip(b"\r\n")) for line in lines if line.strip()]
        if names and not any(_kind(Path(name)) in ("file", "folder") for name in names[:LOOKED_AT]):
            raise UserError(
                f"{where} is no list of pictures: its first {min(len(names), LOOKED_AT)} lines name no file, "
                f"{printable(names[0][:SHORT])!r} is the first\nGive a path a line, from this folder on."
            )
        for name in names:
            yield from self._found(name)

    def _folder(self, folder: str) -> Iterator[_Place]:
        seen = set[str]()  # a link may lead to a folder above it
        for where, folders, files in os.walk(folder, followlinks=True):
            if (real := os.path.realpath(where)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = os.path.join(where, name)  # noqa: PTH118 - of a million files, a Path each takes seconds
                if is_image(name):
                    yield _Place(path, path)
                elif name.lower().endswith(TAR):
                    yield from self._tar(path)
                elif not name.startswith("."):
                    self._other(path)

    def _tar(self, path: str) -> Iterator[_Place]:
        found = list[_Place]()
        for name, offset, size in walk_tar(Path(path)):
            if size == OTHER or (size != FOLDER and not is_image(name)):
                self._other(f"{path}:{name}")
            elif size != FOLDER:
                found.append(_Place(f"{path}:{name}", path, offset, size))
        yield from sorted(found)

    def _other(self, name: str) -> None:
        self.others += 1
        if len(self.shown) < SHOWN:
            self.shown.append(printable(name))

    def _nothing(self, place: str) -> str:
        if place == STDIN:
            return "standard input is empty\nSend a picture's bytes, or a path a line."
        there = f"\n{note}" if (note := self.note()) else ""
        return f"no pictures in {printable(place)}{there}\nGive pictures, or folders, tars or lists of some."


def _kind(path: Path) -> str:
    """Return what lies at a path: file, folder, or what keeps it from being read."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a zero byte
        return getattr(error, "strerror", None) or str(error)
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "a pipe or a device"


def _is_picture(content: bytes) -> bool:
    """Whether bytes are a picture's, a broken one's perhaps, and no paths."""
    try:
        with Image.open(io.BytesIO(content)):
            return True
    except Exception:  # whatever Pillow makes of what is no picture
        return bool(content.translate(None, TEXT))
