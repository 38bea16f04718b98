"""A process that has imported everything and has no threads, from which cases are forked."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.ranks import forked


class Server:
    """Calls functions in such a process: what is forked from one with threads may wait for ever for their locks."""

    def __init__(self) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = forked(_answer, theirs, dict(os.environ))
        theirs.close()

    def __call__(self, function: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """Return what a function returns there; of a generator a list."""
        self._ours.send((function, given, options))
        return self._ours.recv()

    def close(self) -> None:
        """End the process, which has nothing to lose."""
        self._process.kill()
        self._process.join()


def _answer(requests: Connection, environ: dict[str, str]) -> None:
    """Answer until there are no more requests."""
    multiprocessing.set_start_method(None, force=True)  # as in a new Python
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(Path(__file__).parents[2])
    while True:
        function, given, options = requests.recv()
        result = function(*given, **options)
        requests.send(list(result) if isinstance(result, Iterator) else result)
