"""How a command ends early: a user's mistake, a failed training, a signal."""

from __future__ import annotations

import difflib
import errno
import os
import re
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class UserError(ValueError):
    """A mistake of the user's: shown as one message without a traceback, exit status 2.

    The message says what is wrong, what was given, what is allowed and what to do.
    """


class TrainingError(RuntimeError):
    """Training itself failed: exit status 1."""


class DivergedError(TrainingError):
    """The training loss is not finite."""


class LostProcessError(TrainingError):
    """Another process of the training has gone, with its node perhaps: a restart may do better."""


class Assumed(UserWarning):
    """What a file does not say, and is taken for it: the command line prints it as a line."""


# What a path that was given may be wrong in, by what the operating system answers.
PLACES = {
    errno.ENAMETOOLONG: "A name may have 255 bytes: give a shorter one.",
    errno.EACCES: "Give a place that you may read, and write to where something is written.",
    errno.EPERM: "Give a place that you may read, and write to where something is written.",
    errno.EROFS: "Give a place that can be written to.",
    errno.ENOENT: "Give one that exists, in a folder that exists.",
    errno.ENOTDIR: "Give a folder: a file lies where one is needed.",
    errno.EEXIST: "Give a folder: a file lies where one is needed.",
    errno.EISDIR: "Give a file: a folder lies where one is needed.",
    errno.ELOOP: "Give a place whose links end somewhere.",
    errno.ENXIO: "Give a file: this is a device or a pipe.",
    errno.ENODEV: "Give a file: this is a device or a pipe.",
}
NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
FULL = (errno.ENOSPC, errno.EDQUOT)  # no room left on the device, or in the user's quota


def meaning(error: Exception, words: Sequence[str]) -> UserError | None:
    """Return what an error of the operating system's or of a library's says of a user's mistake; None if nothing.

    Args:
        error: what ended a command.
        words: the command line.
    """
    text, said = str(error), None
    if isinstance(error, OSError):
        said = _of_system(error)
    elif isinstance(error, RuntimeError) and "home directory" in text:
        given = next((path for word in words for path in re.findall(r"(?:^|=)(~[^/]*)", word)), "~USER in a config")
        said = f"{given} is no user's folder here\nWrite the path out; ./~NAME is a file of that name."
    elif isinstance(error, RuntimeError) and "Symlink loop" in text:  # what pathlib makes of ELOOP
        said = f"{text.partition('from ')[2]} cannot be used: its links lead in a circle\n{PLACES[errno.ELOOP]}"
    elif isinstance(error, ValueError) and "embedded null" in text:
        given = next((word for word in words if "\0" in word), "in a config")
        said = f"a path holds a zero byte, which no file's name has: {given!r}\nLeave it out."
    elif isinstance(error, ValueError) and "environment variable" in text:
        said = f"{text}\nUnset it, or give it as true or false."
    elif isinstance(error, OverflowError) or "Overflow when unpacking" in text:
        given = [word for word in words if re.search(r"\d{10}|\de\d", word)]
        said = f"a number is too large to count with: {' '.join(given) or 'in a config'}\nGive a smaller one."
    elif isinstance(error, MemoryError) or any(sign in text for sign in NO_MEMORY):
        said = (
            f"memory does not suffice: {text.splitlines()[0] if text else 'no more is given'}\nGive a smaller "
            "data.batch_size, fewer data.num_workers, smaller images or a smaller network."
        )
    return UserError(said) if said else None


def _of_system(error: OSError) -> str | None:
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_working_folder():
        return "the working folder is gone: it was removed or renamed\nChange to one that exists (cd)."
    if error.errno in FULL:
        return f"{_named(error, 'the output')} cannot be written: {error.strerror}\nMake room, or give another."
    if error.errno in PLACES and error.filename is not None:
        return f"{_named(error, '')} cannot be used: {error.strerror}\n{PLACES[error.errno]}"
    if error.errno == errno.EAGAIN:
        return f"no more processes can be started: {error.strerror}\nGive a smaller --data.num_workers."
    return None


def _named(error: OSError, otherwise: str) -> str:
    name = error.filename2 or error.filename or otherwise
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else str(name)


def _has_working_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


class Stopped(SystemExit):
    """A signal asked to stop, and the same command goes on: status 75, or 130 after Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(130 if number == signal.SIGINT else 75)


def stop_at_once(number: int, frame: FrameType | None = None) -> None:
    """Leave, as a signal handler: outside of training there is nothing to save."""
    raise Stopped(number)


_later: list[int] = []


def stop_later(number: int, frame: FrameType | None = None) -> None:
    """Note, as a signal handler, that training shall stop at its first step: it can be requeued then."""
    _later.append(number)


def stop_wanted() -> int:
    """Return the signal that came before training began, 0 if none did."""
    return _later.pop() if _later else 0


def near_misses(name: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x' or 'y'?"`` for names close to ``name``, else an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
