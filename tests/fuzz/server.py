"""A process that has imported everything and has no threads, from which cases are forked: ``python -m`` this."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Server:
    """Calls functions in such a process: what is forked from one with threads may wait for ever for their locks."""

    def __init__(self) -> None:
        words = [sys.executable, "-m", "tests.fuzz.server"]
        root = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)

    def __call__(self, function: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """Return what a function returns there; of a generator a list."""
        assert self._process.stdin
        assert self._process.stdout
        pickle.dump((function, given, options), self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def close(self) -> None:
        """End the process, which has nothing to lose."""
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Answer until there are no more requests."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            function, given, options = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        result = function(*given, **options)
        pickle.dump(list(result) if isinstance(result, Iterator) else result, answers)
        answers.flush()


if __name__ == "__main__":
    main()
