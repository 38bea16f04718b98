"""How a command ends early: a user's mistake, a failed training, a signal."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class UserError(ValueError):
    """A mistake of the user's: shown as one message without a traceback, exit status 2.

    The message says what is wrong, what was given, what is allowed and what to do.
    """


class TrainingError(RuntimeError):
    """Training itself failed (a loss that is not finite, say): exit status 1."""


class LostProcessError(TrainingError):
    """Another process of the training has gone, with its node perhaps: a restart may do better."""


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
