"""Ways to train that are measured in turn, each in processes of its own, which sleep while another one works.

So no way has another's memory, allocator or compiled kernels, and each one's memory can be told.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from reslightning.errors import TrainingError, UserError, meaning
from reslightning.train.throughput import now

WHOLE, PARTS = "whole", "parts"
WITHOUT = ("agreement", "metrics")  # what a step of fit can be measured without


class Turn(NamedTuple):
    """What is to be measured: so many steps, as they are, by their parts, or without one of WITHOUT."""

    steps: int
    what: str = WHOLE


@dataclass
class Found:
    """What a turn found: seconds a step, the most memory in bytes until then, and a step's seconds by parts."""

    seconds: float
    memory: int
    parts: dict[str, float]


class Turns:
    """One process's end of a way: it works on while it is asked to measure, and sleeps else."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.device = torch.device("cpu")
        self._left = 0
        self._spent, self._since = 0.0, float("nan")
        self._running = False

    def wait(self) -> Turn:
        """Sleep until a turn is asked for; its first step is not measured."""
        self._turn: Turn = self._connection.recv()
        self._left, self._spent, self._running = self._turn.steps, 0.0, False
        return self._turn

    def stepped(self) -> bool:
        """Count a step, and return whether it is the turn's last one."""
        if not self._running:
            self._since, self._running = now(self.device), True
            return False
        self._left -= 1
        if self._left == 0:
            self.pause()
        return self._left == 0

    def pause(self) -> None:
        """Leave out what comes now, until the next step but one begins: the end of an epoch, say."""
        if self._running:
            self._spent += now(self.device) - self._since
            self._running = False

    def tell(self, parts: dict[str, float]) -> None:
        """Answer with what the turn took, and its parts in seconds."""
        steps = self._turn.steps
        each = {name: spent / steps for name, spent in parts.items()}
        self._connection.send(Found(self._spent / steps, _memory(self.device), each))


def _memory(device: torch.device) -> int:
    """Return the most memory that this process had, of a GPU that it trains on, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# -- the processes -----------------------------------------------------------------------------------


class Way:
    """A way to train, in one process or in several that train together.

    Args:
        work: what its processes do, given their Turns: a function of a module, as it is sent to them.
        environments: variables of each process.
        threads: that each one computes with; none given means torch's own choice.
    """

    def __init__(
        self,
        work: Callable[[Turns], object],
        environments: Sequence[dict[str, str]] = ({},),
        threads: int | None = None,
    ) -> None:
        server = multiprocessing.get_context("forkserver")  # imports once, for all of them
        server.set_forkserver_preload(["reslightning.cli.lightning_cli"])
        self._processes, self._ends = [], []
        for environment in environments:
            end, other = server.Pipe()
            process = server.Process(target=_live, args=(other, work, environment, threads))
            process.start()
            other.close()
            self._processes.append(process)
            self._ends.append(end)

    def __enter__(self) -> Way:
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes at once: nothing that they have is kept."""
        for process in self._processes:
            process.kill()
            process.join()

    def measure(self, turn: Turn) -> Found:
        """Let it train so many steps, and return what its slowest process found.

        Raises:
            UserError, TrainingError: what ended the way.
        """
        for end in self._ends:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and said why
                end.send(turn)
        found: list[Found] = []
        while open_ := self._ends[len(found) :]:
            found.append(_answer(open_[0]))
        return max(found, key=lambda one: one.seconds)


def _answer(end: Connection) -> Found:
    try:
        answer = end.recv()
    except (EOFError, ConnectionResetError) as error:
        raise TrainingError("a process that measures has gone; what it printed may say why") from error
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, Found)
    return answer


def _live(
    connection: Connection, work: Callable[[Turns], object], environment: dict[str, str], threads: int | None
) -> None:
    """Do a way's work until it is ended; say what ends it early."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks is told, too, and ends this one
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]  # a job's signals and processes are not this training's
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # as in a new Python
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if threads:
        torch.set_num_threads(threads)
    try:
        work(Turns(connection))
    except (EOFError, BrokenPipeError):
        pass  # the process that asks has gone
    except Exception as error:
        known = error if isinstance(error, UserError | TrainingError) else meaning(error, [])
        if known is None:
            raise
        connection.send(known)


class Median(NamedTuple):
    """A median of rounds, and the ends of its interval of 95 % confidence, NaN of fewer than six rounds."""

    value: float
    low: float
    high: float

    def interval(self, word: Callable[[float], str]) -> str:
        """Return the interval behind a space, given what makes words of its ends; nothing where there is none."""
        return "" if math.isnan(self.low) else f" (95 %: {word(self.low)} to {word(self.high)})"


def times_as_fast(first: Sequence[Found], second: Sequence[Found]) -> Median:
    """Return how many times as fast the first way is: the median of the rounds' ratios.

    Its interval takes nothing for granted of how rounds differ (Conover, Practical Nonparametric Statistics, 3.2).
    """
    from scipy.stats import quantile_test

    ratios = [b.seconds / a.seconds for a, b in zip(first, second, strict=True)]
    return Median(statistics.median(ratios), *quantile_test(ratios, p=0.5).confidence_interval(0.95))
