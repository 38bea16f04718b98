"""One writer per run directory, on one host and across hosts; and one process at a time at small works."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reslightning.cluster.allocation import job_id
from reslightning.cluster.requeue import beat
from reslightning.errors import UserError

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
        self._file: int | None = None
        self._stop = threading.Event()

    def acquire(self) -> None:
        """Take the lock, a dead holder's too.

        Raises:
            UserError: a live process holds it.
            OSError: the file cannot be written.
        """
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            kernel_knows = True
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    holder = self._holder(file)
                    os.close(file)
                    raise self._refusal(holder) from error
                kernel_knows = False  # a file system without locks
            # The last holder may have removed the file between our opening and locking it.
            if os.fstat(file).st_nlink:
                break
            os.close(file)
        holder = self._holder(file)
        here = holder.get("host") == socket.gethostname()
        requeued = job_id() is not None and holder.get("job") == job_id()
        if holder and not (here and kernel_knows) and not requeued and self._lives(file):
            os.close(file)
            raise self._refusal(holder)
        me = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "job": job_id()})
        os.ftruncate(file, 0)
        os.pwrite(file, me.encode(), 0)
        self._file = file
        self._stop.clear()
        threading.Thread(target=self._beat, args=(file,), daemon=True, name="run-lock").start()

    def release(self) -> None:
        """Remove the lock, if held."""
        if self._file is not None:
            self._stop.set()
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._file)
            self._file = None

    def _beat(self, file: int) -> None:
        while not self._stop.wait(HEARTBEAT):
            beat()  # on local storage: the lock's file system may hang
            with contextlib.suppress(OSError):
                os.utime(file)

    def _lives(self, file: int) -> bool:
        """Whether the holder gives signs of life; a job waits for one, as the job before may just have been killed."""
        last = os.fstat(file).st_mtime
        if job_id() is None or time.time() - last >= DEAD_AFTER:
            return time.time() - last < DEAD_AFTER
        print(f"{self.path.parent}: waiting for a sign of life of its last writer", flush=True)
        while time.time() - last < DEAD_AFTER:
            time.sleep(POLL)
            if os.fstat(file).st_mtime != last:
                return True
        return False

    @staticmethod
    def _holder(file: int) -> dict[str, Any]:
        try:
            holder = json.loads(os.pread(file, 4096, 0))
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}

    def _refusal(self, holder: Mapping[str, Any]) -> UserError:
        job = f", Slurm job {holder['job']}" if holder.get("job") else ""
        return UserError(
            f"{self.path.parent} is being trained already by process {holder.get('pid', 'unknown')} on "
            f"{holder.get('host', 'an unknown host')}{job}\nWait for it, stop it, or start another run beside "
            "it with --fresh."
        )
