"""The user's mistakes: one exception type, and near misses for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's: shown as one message without a traceback, exit status 2.

    The message says what is wrong, what was given, what is allowed and what to do.
    """


class TrainingError(RuntimeError):
    """Training itself failed (a loss that is not finite, say): exit status 1."""


def near_misses(name: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x' or 'y'?"`` for names close to ``name``, else an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
