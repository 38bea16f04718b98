"""A loader's workers: how they begin, and how they end with what ended early."""

from __future__ import annotations

import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar
from weakref import WeakSet

from torch.utils.data import DataLoader

from reslightning.data import decode


def start(init: Callable[[int], None] | None, worker: int) -> None:
    """Begin a worker's life, one of those that share the CPUs."""
    decode.use_one_thread()
    if init:
        init(worker)


def ignore_signals(worker: int) -> None:
    """Leave stopping to the main process: Slurm and Ctrl-C signal a loader's workers too."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)


class Loader(DataLoader[Any]):
    """A loader whose workers are known, for the command line to end."""

    workers: ClassVar[WeakSet[BaseProcess]] = WeakSet()

    def __iter__(self) -> Any:
        """Start an epoch's workers."""
        iterator = super().__iter__()
        self.workers.update(getattr(iterator, "_workers", ()))
        return iterator


def end_workers() -> None:
    """Kill the workers of what ended early: they ignore the SIGTERM that Python would send and wait for."""
    workers = list(Loader.workers)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if workers else None  # torch's would raise for each
    for worker in workers:
        worker.kill()
        worker.join()
        Loader.workers.discard(worker)
    if before:
        signal.signal(signal.SIGCHLD, before)
