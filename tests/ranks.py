"""Trainings of several processes that load nothing: forks of a server that has imported the command line already.

Lightning's launcher starts the other ranks as ever, but gets waiting forks instead of new Pythons.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

TWO = "--trainer.devices 2 --trainer.accelerator cpu"


class Other:
    """What the launcher needs of a subprocess.Popen."""

    def __init__(self, pid: int, orders: int, env: dict[str, str]) -> None:
        self.pid, self.returncode = pid, None
        with os.fdopen(orders, "wb") as file:
            pickle.dump(env, file)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _main(words: Sequence[str], environ: dict[str, str], out: str) -> None:
    multiprocessing.set_start_method(None, force=True)  # as in a new Python
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    waiting: list[tuple[int, int]] = []
    devices = words[words.index("--trainer.devices") + 1] if "--trainer.devices" in words else 1
    for _ in range(1, int(devices)):
        reader, writer = os.pipe()
        if pid := os.fork():
            os.close(reader)
            waiting.append((pid, writer))
            continue
        for ends in (writer, *(other for _, other in waiting)):
            os.close(ends)
        with os.fdopen(reader, "rb") as orders:
            if not (order := orders.read()):
                os._exit(0)  # the first rank ended alone
        environ, waiting = pickle.loads(order), []
        break
    if waiting:
        from lightning.pytorch.strategies.launchers import subprocess_script

        starts = iter(waiting)
        subprocess_script.subprocess = SimpleNamespace(Popen=lambda words, env, cwd: Other(*next(starts), env))
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["reslightning", *words]
    from reslightning.__main__ import main

    try:
        sys.exit(main(words))
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves without


def forked(target: Callable[..., None], *given: Any) -> ForkServerProcess:
    """Start a function in a process that has imported the command line, and has no threads."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.imported"])
    process = server.Process(target=target, args=given)
    with patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1])):
        process.start()
    return process


def start(line: str, out: Path) -> ForkServerProcess:
    """Start a command line as a process of its own, whose output is appended to a file."""
    return forked(_main, shlex.split(line), dict(os.environ), str(out))


def run(line: str, status: int = 0) -> str:
    """Run a command line to its end, and return what it said."""
    out = Path("out")
    out.unlink(missing_ok=True)
    process = start(line, out)
    process.join(300)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
    assert process.exitcode == status, out.read_text()
    return out.read_text()
