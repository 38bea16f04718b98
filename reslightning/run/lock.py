"""One writer per run directory, on one host and across hosts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from reslightning.cluster.allocation import job_id
from reslightning.cluster.requeue import beat
from reslightning.errors import UserError
from reslightning.files import NO_LOCKS

HEARTBEAT = 30.0  # seconds between signs of life
DEAD_AFTER = 4 * HEARTBEAT  # silence after which a holder on another host counts as dead
POLL = 2.0  # between looks for a sign of life


class Lock:
    """One writer per run directory, until it says so or dies.

    On one host the kernel knows whether the holder lives. File systems that do not share locks
    between hosts leave that to the file's time, which the holder refreshes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: FileLock | None = None
        self._stop = threading.Event()

    def acquire(self) -> None:
        """Take the lock, a dead holder's too.

        Raises:
            UserError: a live process holds it.
            OSError: the file cannot be written.
        """
        lock, holder = FileLock(self.path, timeout=0, thread_local=False), self._holder()
        kernel_knows = True
        try:
            lock.acquire()
        except Timeout as error:
            raise self._refusal(self._holder()) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            kernel_knows = False
        # Versions before held their locks by another of the kernel's ways.
        kernel_knows = kernel_knows and (holder.get("by") == "flock" or not _running(holder.get("pid")))
        here = kernel_knows and holder.get("host") == socket.gethostname()
        requeued = job_id() is not None and holder.get("job") == job_id()
        if holder and not here and not requeued and self._lives():
            lock.release()
            raise self._refusal(holder)
        me = {"host": socket.gethostname(), "pid": os.getpid(), "job": job_id(), "by": "flock"}
        self.path.write_text(json.dumps(me))
        self._held = lock
        self._stop.clear()
        threading.Thread(target=self._beat, daemon=True, name="run-lock").start()

    def release(self) -> None:
        """Remove the lock, if held."""
        if self._held is not None:
            self._stop.set()
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._held.release()
            self._held = None

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            beat()  # on local storage: the lock's file system may hang
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _lives(self) -> bool:
        """Whether the holder gives signs of life; a job waits for one, as the job before may just have been killed."""
        last = self.path.stat().st_mtime
        if job_id() is None or time.time() - last >= DEAD_AFTER:
            return time.time() - last < DEAD_AFTER
        print(f"{self.path.parent}: waiting for a sign of life of its last writer", flush=True)
        while time.time() - last < DEAD_AFTER:
            time.sleep(POLL)
            if self.path.stat().st_mtime != last:
                return True
        return False

    def _holder(self) -> dict[str, Any]:
        try:
            holder = json.loads(self.path.read_bytes()[:4096])
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _refusal(self, holder: Mapping[str, Any]) -> UserError:
        job = f", Slurm job {holder['job']}" if holder.get("job") else ""
        return UserError(
            f"{self.path.parent} is being trained already by process {holder.get('pid', 'unknown')} on "
            f"{holder.get('host', 'an unknown host')}{job}\nWait for it, stop it, or start another run beside "
            "it with --fresh."
        )


def _running(pid: object) -> bool:
    """Whether another process of this machine has the number."""
    return isinstance(pid, int) and pid != os.getpid() and Path(f"/proc/{pid}").exists()
