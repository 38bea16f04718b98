"""A run directory, and the one process that writes to it."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Unpack

from reslightning.cluster.allocation import job_id
from reslightning.errors import UserError
from reslightning.files import finite, write_atomically
from reslightning.run import layout
from reslightning.run.lock import Lock
from reslightning.run.provenance import code_hash, code_version
from reslightning.run.record import kept_summary
from reslightning.run.summary import FORMAT, SegmentFacts, Summary


class Run:
    """A run directory that this process writes to, and nobody else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / layout.CONFIG
        self.checkpoints = directory / layout.CHECKPOINTS
        self.others = self.checkpoints / layout.OTHERS
        self.last = self.checkpoints / layout.LAST
        self.best = self.checkpoints / layout.BEST
        self.metrics = directory / layout.METRICS
        self.evaluations = directory / layout.EVALUATIONS
        self.summary, _ = kept_summary(directory)
        self._mistake = directory / layout.MISTAKE
        self._lock = Lock(directory / layout.LOCK)
        self._started = time.monotonic()
        self._seconds_before: float = self.summary.get("seconds") or 0.0

    def open(self) -> None:
        """Make the directory and become its one writer.

        Raises:
            UserError: it cannot be written, or somebody else is writing.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            raise UserError(
                f"cannot write the run directory {self.directory}: {error.strerror}\nGive another as --run_dir."
            ) from error
        for killed in [*self.directory.glob(".*.tmp"), *self.checkpoints.rglob(".*.tmp")]:
            killed.unlink(missing_ok=True)  # half-written by a process that was killed
        self.told()  # what a killed segment left
        self.summary, cut = kept_summary(self.directory)
        if cut:
            print(cut)
        self._seconds_before = self.summary.get("seconds") or 0.0

    def check_space(self, checkpoint: int) -> None:
        """Raise UserError where checkpoints of so many bytes would not fit."""
        # Two that stay, and a new one beside the one that it replaces.
        there = sum(path.stat().st_size for path in (self.last, self.best) if path.is_file())
        needed, free = 3 * checkpoint - there, shutil.disk_usage(self.directory).free
        if free < needed:
            raise UserError(
                f"{self.directory} has no room for checkpoints: {needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB "
                "are free\nMake room, or give another --run_dir."
            )

    @property
    def starts_without_progress(self) -> int:
        """How many segments in a row, up to the last, took no step that was kept."""
        moved = [part["to_step"] > part["from_step"] for part in self.summary.get("segments", [])]
        return moved[::-1].index(True) if any(moved) else len(moved)

    def start(self, facts: Summary, *, world_size: int, step: int) -> None:
        """Begin a segment: one stretch of training between a start and a stop."""
        segments = [*self.summary.get("segments", []), _segment(world_size, step)]
        run_id = self.summary.get("run_id") or secrets.token_hex(4)
        lost = round(self.summary.get("minutes_lost", 0.0) + self._minutes_away(), 3)
        self.summary = {
            "format": FORMAT,
            "run_id": run_id,
            **self.summary,
            **facts,
            "segments": segments,
            "minutes_lost": lost,
        }
        self.update(status="running", world_size=world_size)

    def _minutes_away(self) -> float:
        """Return the minutes since the last segment kept something: nobody trained, or what was trained is lost."""
        try:
            then = datetime.fromisoformat(self.summary["heartbeat"]).timestamp()
        except (KeyError, ValueError):
            return 0.0
        return max(time.time() - then, 0.0) / 60

    def update(self, **fields: Unpack[Summary]) -> None:
        """Write summary.json with these fields changed."""
        self.summary.update(fields)
        self.summary["heartbeat"] = _now()
        self.summary["seconds"] = round(self._seconds_before + time.monotonic() - self._started, 3)
        if self.summary.get("segments"):
            last = self.summary["segments"][-1]
            last["to_step"] = self.summary.get("global_step", 0)
            last["seconds"] = round(time.monotonic() - self._started, 3)
        write_atomically(self.directory / layout.SUMMARY, json.dumps(finite(self.summary), indent=2) + "\n")

    def tell(self, mistake: str) -> None:
        """Leave a mistake that this process alone met, a corrupt image say, for the first one to say."""
        with contextlib.suppress(OSError):
            write_atomically(self._mistake, mistake)

    def told(self) -> str | None:
        """Return what another process has left, once."""
        with contextlib.suppress(OSError):
            mistake = self._mistake.read_text()
            self._mistake.unlink()
            return mistake
        return None

    def close(self) -> None:
        """Let others write."""
        self._lock.release()


def leave(directory: Path) -> None:
    """Say of a run that its process was killed and goes on later, unless somebody else is writing to it."""
    run = Run(directory)
    with contextlib.suppress(UserError, OSError):
        run.open()
        if run.summary.get("status") == "running":
            content = run.summary | {"status": "preempted"}  # all else as the killed process left it
            write_atomically(directory / layout.SUMMARY, json.dumps(finite(content), indent=2) + "\n")
        run.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _segment(world_size: int, step: int) -> SegmentFacts:
    commit, dirty = code_version()
    return {
        "started": _now(),
        "job": job_id(),
        "host": socket.gethostname(),
        "world_size": world_size,
        "from_step": step,
        "to_step": step,
        "commit": commit,
        "dirty": dirty,
        "code": code_hash(),
    }
