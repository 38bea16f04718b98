"""How torch and Lightning are imported by commands that may be done without them."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def loading(*, aloud: bool = True) -> Iterator[None]:
    """Say on a terminal that imports take a while, and collect no garbage meanwhile, a quarter of that while.

    What is imported stays: looking for what may go, again and again the more there is, finds nothing.

    Args:
        aloud: whether to say it.
    """
    if aloud and "torch" not in sys.modules and sys.stderr.isatty():
        print("loading torch and Lightning", file=sys.stderr, flush=True)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
