"""Files written whole or not at all, and what is left of those that something cut; without torch."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import math
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from reslightning.errors import UserError

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],]')
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all that is no letter but tabs and new lines
# Tabs, ends of lines, and marks that turn the direction in which the letters behind them are read.
_BREAKING = re.compile("[\t\n\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
_CLOSING = {"{": "}", "[": "]"}


def read_json(path: Path) -> tuple[dict[str, Any], bool]:
    """Return what a JSON file's object says before wherever it is cut, and whether it is whole."""
    try:
        text = path.read_bytes().decode(errors="ignore") if path.is_file() else ""  # a pipe would never end
    except OSError:
        return {}, False
    try:
        content = _printable(json.loads(text))
    except ValueError:
        return _printable(_before_the_cut(text)), False
    except RecursionError:  # which none of this package's makes
        return {}, False
    return (content, True) if isinstance(content, dict) else ({}, False)


def _printable(content: Any) -> Any:
    """Return what JSON said without halves of characters and what steers terminals, which no file and none takes."""
    if isinstance(content, dict):
        return {_printable(key): _printable(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_printable(value) for value in content]
    return printable(content.encode(errors="replace").decode()) if isinstance(content, str) else content


def _before_the_cut(text: str) -> dict[str, Any]:
    """Close the brackets that are open behind the last value that is whole."""
    places: list[tuple[int, str]] = []
    brackets: list[str] = []
    for token in _TOKENS.finditer(text):
        if token[0] in _CLOSING:
            brackets.append(token[0])
        elif token[0] in "}]" and brackets:
            brackets.pop()
        elif token[0] != ",":
            continue
        # A comma ends a value in front of it, a bracket stands behind its own.
        end = token.start() if token[0] == "," else token.end()
        places.append((end, "".join(_CLOSING[bracket] for bracket in reversed(brackets))))
    for end, closing in reversed(places):
        try:
            content = json.loads(text[:end] + closing)
        except (ValueError, RecursionError):
            continue
        return content if isinstance(content, dict) else {}
    return {}


def printable(name: str) -> str:
    """Return a file's name, which may be no UTF-8 or steer a terminal, as text that every terminal and file takes."""
    plain = name.encode(errors="backslashreplace").decode()
    return _STEERING.sub(lambda letter: f"\\x{ord(letter[0]):02x}", plain)


def one_line(name: str) -> str:
    """Return a name as ``printable`` does, on one line, and read from left to right whatever it contains."""
    return _BREAKING.sub(lambda letter: letter[0].encode("unicode_escape").decode(), printable(name))


def read_rows(path: Path) -> tuple[list[dict[str, float]], bool]:
    """Return the rows of numbers in a CSV file that are whole, without empty cells, and whether all are."""
    try:
        content = path.read_bytes().decode(errors="ignore") if path.is_file() else ""
    except OSError:
        return [], False
    lines = content.splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    reader = csv.reader(whole)
    rows: list[dict[str, float]] = []
    try:
        names = next(reader, [])
        for cells in reader:
            rows.append({name: float(cell) for name, cell in zip(names, cells, strict=True) if cell})
    except (ValueError, csv.Error):  # another number of cells, or one that is no number, or longer than any
        return rows, False
    return rows, len(whole) == len(lines)


def finite(value: Any) -> Any:
    """Return a value with what JSON cannot say, not a number and infinity, as None, however deep it lies."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to, which behind the block lies at ``path`` and on the disk, or nowhere if it failed.

    A link stays one, and what it names is written; a device or a pipe, which nothing can replace, is written to.
    """
    named = str(path).startswith(("/dev/", "/proc/self/fd/"))  # standard output perhaps, of which a file may be behind
    if path.exists() and not path.is_dir() and (named or not path.is_file()):
        with path.open("ab") as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(path: Path) -> Iterator[None]:
    """Make a folder for what the block writes; those of it that it leaves empty by an error do not stay."""
    made = [place for place in (path, *path.parents) if not place.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something lies in it
            for place in made:
                place.rmdir()
        raise


def check_folder(path: Path) -> None:
    """Raise OSError, or ValueError for a zero byte, where a folder could not be made or written to."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()  # a name may be longer than any
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists() or place.is_symlink())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    import tempfile  # --help needs none of it

    with tempfile.TemporaryFile(dir=there):  # root may write everywhere, by what access says, and cannot in /proc
        pass


@contextlib.contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write a result to, as ``whole`` does, in a folder that is made if it is not there.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def check_file(path: Path, option: str) -> None:
    """Raise UserError where a file that an option names could not be written."""
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; allowed: a file")
    try:
        check_folder(path.parent)
    except (OSError, ValueError) as error:
        raise UserError(f"{option} {path} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file or none of it."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# What a file system without locks answers.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Be the only process of this machine that holds the lock in a file, which is removed behind each.

    Args:
        path: the file.
        wait: for a process that holds it, as long as it does.

    Raises:
        TimeoutError: another process holds it, and is not waited for.
        OSError: the file cannot be made.
    """
    from filelock import FileLock

    lock = FileLock(path, mode=0o600)
    try:
        lock.acquire(blocking=wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:  # without any, what is done under it is atomic
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # who waits for it notices, and makes another
        lock.release()
