"""Pictures as they lie about: files, folders, tars, lists and standard input, by position; without torch."""

from __future__ import annotations

import codecs
import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from reslightning.data.decode import opened
from reslightning.data.layouts import FOLDER, OTHER, is_image, walk_tar
from reslightning.errors import UserError
from reslightning.files import one_line, printable

STDIN, LIST, TAR = "-", ".txt", ".tar"
SHOWN = 5  # names of what is not read
LOOKED_AT, SHORT = 100, 60  # lines of a list to tell whether it is one, and letters of one that is shown
TEXT = bytes({0, *range(9, 14), *range(32, 256)})  # what paths and what is between them consist of


class _Place(NamedTuple):
    name: str
    file: str
    offset: int = 0
    size: int | None = None  # of a part of a file; None is all of it
    problem: str = ""  # why there is nothing to be read


class Listing:
    """Pictures in the order in which they were given; folders and tars sorted within.

    A file may be of any name; of a folder's or a tar's files those with a picture's suffix are read, of a folder's tars
    too. A list is a text file, or standard input, of a path a line (or with zeros between them, as ``find -print0``
    writes). Standard input may be one picture, too. A place where nothing can be read is kept, as a picture that
    cannot be read.

    Args:
        places: paths, or ``-`` for standard input.
        stdin: standard input.

    Attributes:
        others: how many files of folders and tars are no pictures by their names.
        shown: the first of these.

    Raises:
        UserError: there is no picture in any of them.
    """

    def __init__(self, places: Sequence[str], stdin: BinaryIO | None = None) -> None:
        self.others, self.shown = 0, list[str]()
        self._content: bytes | None = None  # of standard input, where that is a picture
        self._stdin = stdin
        self._reading = set[str]()  # lists, one in the other
        self._places = [found for place in places for found in self._some(place)]
        if all(place.problem for place in self._places):
            raise UserError("\n".join(place.problem for place in self._places[:SHOWN]))

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
        """Return its name on one line, for messages."""
        return one_line(self._places[position].name)

    def files(self) -> set[str]:
        """Return the paths of all files that pictures are read from."""
        return {place.file for place in self._places}

    def read(self, split: str, position: int) -> bytes:
        """Return a picture's bytes.

        Raises:
            UserError: they cannot be read.
        """
        place, name = self._places[position], self.describe(split, position)
        if place.problem:
            raise UserError(" ".join(place.problem.splitlines()))
        if place.file == STDIN:
            assert self._content is not None
            return self._content
        try:
            if (kind := _kind(Path(place.file))) != "file":
                raise UserError(f"{name}: {kind}")
            with Path(place.file).open("rb") as file:
                file.seek(place.offset)
                return file.read() if place.size is None else file.read(place.size)
        except OSError as error:
            raise UserError(f"{name}: {error.strerror}") from error

    def note(self) -> str | None:
        """Return a line on files that are no pictures by their names; None where there is none."""
        if not self.others:
            return None
        more = f" and {self.others - len(self.shown):,} more" if self.others > len(self.shown) else ""
        return f"not read: {self.others:,} files that are no pictures by their names: {', '.join(self.shown)}{more}"

    def _some(self, place: str) -> list[_Place]:
        """Return the pictures of a place, or one that says why there is none."""
        found, others = list(self._found(place)), self.others
        if found:
            return found
        if place == STDIN:
            said = "standard input is empty\nSend a picture's bytes, or a path a line."
        else:
            there = f"\n{note}" if others and (note := self.note()) else ""
            said = f"no pictures in {one_line(place)}{there}\nGive pictures, or folders, tars or lists of some."
        return [_Place(place, place, problem=said)]

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
            yield from self._list_file(str(path))
        else:
            yield _Place(place, str(path))

    def _from_stdin(self) -> Iterator[_Place]:
        content = self._stdin.read() if self._stdin else b""
        if _is_picture(content):
            self._content = content
            yield _Place(STDIN, STDIN)
        else:
            yield from self._list(content, "standard input")

    def _list_file(self, path: str) -> Iterator[_Place]:
        real = os.path.realpath(path)
        if real in self._reading:
            yield _Place(path, path, problem=f"{one_line(path)} is a list that names itself")
            return
        self._reading.add(real)
        try:
            yield from self._list(Path(path).read_bytes(), path)
        except OSError as error:
            yield _Place(path, path, problem=f"cannot read {one_line(path)}: {error.strerror}")
        self._reading.discard(real)

    def _list(self, content: bytes, where: str) -> Iterator[_Place]:
        names = _lines(content)
        if names and not any(_kind(Path(name)) in ("file", "folder") for name in names[:LOOKED_AT]):
            count = f"line names no file, {one_line(names[0][:SHORT])!r}"
            if len(names) > 1:
                looked = min(len(names), LOOKED_AT)
                count = f"first {looked} lines name no file, {one_line(names[0][:SHORT])!r} is the first"
            said = f"{one_line(where)} is no list of pictures: its {count}\nGive a path a line, from this folder on."
            yield _Place(where, where, problem=said)
            return
        for name in names:
            yield from self._some(name)

    def _folder(self, folder: str) -> Iterator[_Place]:
        seen, closed = set[str](), list[OSError]()  # a link may lead to a folder above it
        for where, folders, files in os.walk(folder, onerror=closed.append, followlinks=True):
            if (real := os.path.realpath(where)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = os.path.join(where, name)  # noqa: PTH118 - of a million files, a Path each takes seconds
                if is_image(name):
                    yield _Place(path, path)
                elif name.lower().endswith(TAR) and not name.startswith("."):
                    yield from self._tar(path)
                elif not name.startswith("."):
                    self._other(path)
        for error in closed:
            yield _Place(error.filename, error.filename, problem=f"{one_line(error.filename)}: {error.strerror}")

    def _tar(self, path: str) -> Iterator[_Place]:
        found, problem = list[_Place](), ""
        try:
            for name, offset, size in walk_tar(Path(path)):
                if size == OTHER or (size != FOLDER and not is_image(name)):
                    self._other(f"{path}:{name}")
                elif size != FOLDER:
                    found.append(_Place(f"{path}:{name}", path, offset, size))
        except UserError as error:  # what lies before it is whole
            problem = str(error)
        yield from sorted(found)
        if problem:
            yield _Place(path, path, problem=problem)

    def _other(self, name: str) -> None:
        self.others += 1
        if len(self.shown) < SHOWN:
            self.shown.append(one_line(name))


def _kind(path: Path) -> str:
    """Return what lies at a path: file, folder, or what keeps it from being read."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a zero byte
        return getattr(error, "strerror", None) or str(error)
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "a pipe or a device"


def _lines(content: bytes) -> list[str]:
    """Return the paths of a list: a line each, in whichever encoding a system writes, or with zeros between them."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = os.fsencode(content.decode("utf-16", "replace"))
    content = content.removeprefix(codecs.BOM_UTF8)
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(line.strip(b"\r\n")) for line in lines if line.strip()]


def _is_picture(content: bytes) -> bool:
    """Whether bytes are a picture's, a broken one's perhaps, and no paths."""
    try:
        with opened(content):
            return True
    except Exception:  # whatever Pillow makes of what is no picture
        text = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return not text and bool(content.translate(None, TEXT))
