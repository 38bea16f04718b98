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


class Stopped(SystemExit):
    """A signal asked to stop, and the same command goes on: status 75, or 130 after Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(130 if number == signal.SIGINT else 75)


def stop_at_once(number: int, frame: FrameType | None = None) -> None:
    """Leave, as a signal handler: outside of training there is nothing to save."""
    raise Stopped(number)


def near_misses(name: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x' or 'y'?"`` for names close to ``name``, else an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
