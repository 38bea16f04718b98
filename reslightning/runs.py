"""A run: its directory, and what it says of itself; without torch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

from reslightning.errors import UserError
from reslightning.files import read_json, read_rows, write_atomically
from reslightning.lock import DEAD_AFTER, Lock
from reslightning.provenance import code_hash, code_version, mixed_code
from reslightning.slurm import job_id

FORMAT = 1
CONFUSION, WORST = "val-confusion.csv", "val-worst.png"  # in a finished run's evaluations folder
LOST_AFTER = 600.0  # seconds without a sign of life after which a running run without a lock is lost

# -- reading ------------------------------------------------------------------------------------


def read_summary(directory: Path) -> dict[str, Any] | None:
    """Return a run directory's summary.json; None where there is no whole one."""
    summary, whole = read_json(directory / "summary.json")
    return summary if whole else None


@dataclass
class RunRecord:
    """One run, read back from its directory or from W&B; all that ``compare`` sees of it.

    Attributes:
        name: the directory's or W&B's name.
        source: the directory, or W&B's path.
        summary: what summary.json says, or the same facts from W&B.
        history: rows of metrics; of those of one epoch the last counts, and of all that are left none is without.
        problems: what of it is cut, missing or contradicts itself.
        heartbeat: seconds since the run's last sign of life; None where there is none.
        dead: whether nobody holds the run any more.
    """

    name: str
    source: str
    summary: dict[str, Any]
    history: list[dict[str, float]]
    problems: list[str] = field(default_factory=list)
    heartbeat: float | None = None
    dead: bool = True

    def __post_init__(self) -> None:
        """Drop, and name, what cannot be believed."""
        for name in [name for name, value in self.summary.items() if not _fits(name, value)]:
            self.problems.append(f"its {name} is not what it should be: {str(self.summary.pop(name))[:40]!r}")
        rows = {row["epoch"]: row for row in self.history if math.isfinite(row.get("epoch", math.nan))}
        self.history = [rows[epoch] for epoch in sorted(rows)]

    @classmethod
    def from_directory(cls, directory: Path) -> RunRecord:
        """Read a run directory, also one that is cut or still being written.

        Raises:
            UserError: it holds no run of this package's.
        """
        summary, whole = read_json(directory / "summary.json")
        rows, rows_whole = read_rows(directory / "metrics.csv")
        if not summary and not rows:
            raise UserError(f"{directory}: no summary.json and no metrics.csv of a run, or nothing whole in them")
        if not {"arch", "run_id", "segments", "format", "identity"} & summary.keys() and not {"epoch", "step"} <= (
            rows[0].keys() if rows else set()
        ):
            raise UserError(f"{directory}: its files are not a run's of reslightning")
        problems = [] if whole else ["summary.json is cut" if summary else "there is no whole summary.json"]
        if not rows_whole and summary.get("epoch"):
            problems.append(f"metrics.csv is cut behind row {len(rows)}" if rows else "there is no whole metrics.csv")
        record = cls(directory.resolve().name, str(directory), summary, rows, problems)
        if len(record.history) < len(rows):
            problems.append("metrics.csv has epochs twice, or rows of none; of each epoch the last row counts")
        if mixed := mixed_code(record.summary):
            problems.append(mixed)
        if whole and rows_whole:
            record.problems += record._contradictions()
        record.heartbeat, record.dead = _signs_of_life(directory, summary)
        return record

    def _contradictions(self) -> list[str]:
        """Return where summary.json says what the rows do not; the rows are believed."""
        found = []
        metrics, epoch = self.summary.get("metrics") or {}, self.summary.get("epoch") or 0
        row = next((row for row in self.history if row["epoch"] == epoch), None)
        if epoch and row is None:
            last = int(self.history[-1]["epoch"]) if self.history else 0
            found.append(f"summary.json is at epoch {epoch}, metrics.csv ends at {last}")
        for name, value in metrics.items():
            there = (row or {}).get(name)
            if row is not None and _number(value) and name != "step" and there != value:
                found.append(f"summary.json says {name}={value} of epoch {epoch}, metrics.csv {there}")
        said, best = self.summary.get("best") or {}, _best([row for row in self.history if row["epoch"] <= epoch])
        for name in ("val/top1", "epoch"):
            if said and best and said.get(name) != best[name]:
                found.append(f"summary.json says a best with {name}={said.get(name)}, metrics.csv {best[name]}")
        return found

    @property
    def status(self) -> str:
        """running, preempted, finished or failed; lost for one that runs no more and never said so."""
        status = str(self.summary.get("status", "unknown"))
        silent = self.heartbeat is None or self.heartbeat > LOST_AFTER
        return "lost" if status == "running" and self.dead and silent else status

    @property
    def last(self) -> dict[str, float]:
        """The last epoch's row; empty before there is one."""
        return self.history[-1] if self.history else {}

    @property
    def validated(self) -> dict[str, float]:
        """The row of the last epoch that was validated; empty before there is one."""
        return next((row for row in reversed(self.history) if "val/top1" in row), {})

    @property
    def best(self) -> dict[str, float]:
        """The row that validates best, the first of equals; empty before there is one."""
        return _best(self.history)

    @property
    def result(self) -> tuple[dict[str, float], str]:
        """The row that counts, and which it is: best where validation was held out, else the last validated."""
        held_out = self.summary.get("val_source") == "held-out"
        return (self.best, "best") if held_out else (self.validated, "last")

    @property
    def device_hours(self) -> float | None:
        """Hours times processes over all segments; None where they were not recorded."""
        parts = self.summary.get("segments") or []
        if not parts or not all({"seconds", "world_size"} <= part.keys() for part in parts):
            return None
        return sum(part["seconds"] * part["world_size"] for part in parts) / 3600


def _best(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    valid = [row for row in rows if math.isfinite(row.get("val/top1", math.nan))]
    return max(valid, key=itemgetter("val/top1"), default={})


_OF_SEGMENTS = {"seconds", "world_size", "from_step", "to_step"}
# What a fact of summary.json is, where it is there.
_KINDS: dict[str, type] = {
    **dict.fromkeys(("run_id", "identity", "status", "heartbeat", "group", "device"), str),
    **dict.fromkeys(("arch", "shortcut", "version", "dataset", "protocol", "val_source"), str),
    **dict.fromkeys(("epoch", "epochs", "global_step", "seconds", "world_size", "minutes_lost"), float),
    **dict.fromkeys(("parameters", "multiply_adds", "images_per_second", "data_wait", "seed"), float),
    **dict.fromkeys(("metrics", "best", "options", "n_samples"), dict),
}


def _fits(name: str, value: Any) -> bool:
    """Whether a fact of summary.json has the kind of value that it should have, or none."""
    if value is None:
        return True
    if name == "segments":
        return isinstance(value, list) and all(
            isinstance(part, dict) and all(_number(part[key]) for key in _OF_SEGMENTS & part.keys()) for part in value
        )
    kind = _KINDS.get(name, object)
    return _number(value) if kind is float else isinstance(value, kind)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


_OWN = {"checkpoints", "evaluations", "wandb"}


def find_runs(path: Path) -> list[Path]:
    """Return the folders at or below a path that may be runs, sorted; what a run itself keeps is not searched."""
    found, seen = [], set()
    for folder, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        # A run that was killed at its start has a lock and a folder for checkpoints alone.
        killed = "checkpoints" in folders and not {"config.yaml", "lock"}.isdisjoint(files)
        if real in seen:
            folders.clear()
        elif killed or not {"summary.json", "metrics.csv"}.isdisjoint(files):
            found.append(Path(folder))
            folders[:] = set(folders) - _OWN
        seen.add(real)
        folders.sort()
    return found


def _signs_of_life(directory: Path, summary: Mapping[str, Any]) -> tuple[float | None, bool]:
    """Return seconds since the last sign of life, and whether the lock is dead or gone."""
    ages = []
    with contextlib.suppress(KeyError, ValueError):
        ages.append(time.time() - datetime.fromisoformat(str(summary["heartbeat"])).timestamp())
    lock = directory / "lock"
    dead = True
    with contextlib.suppress(OSError):
        ages.append(time.time() - lock.stat().st_mtime)
        dead = ages[-1] > DEAD_AFTER
    return (max(min(ages), 0.0) if ages else None), dead


def evaluation_checkpoint(directory: Path) -> Path:
    """Return the checkpoint that stands for a run: best with a held-out split, else last.

    Raises:
        UserError: the directory is no run's, or has no checkpoint.
    """
    summary = read_summary(directory)
    if summary is None:
        raise UserError(f"{directory} is no run directory: it has no summary.json")
    name = "best.ckpt" if summary.get("val_source") == "held-out" else "last.ckpt"
    path = directory / "checkpoints" / name
    if not path.is_file():
        raise UserError(f"{directory} has no checkpoints/{name} yet: let the run finish an epoch first")
    return path


# -- writing ------------------------------------------------------------------------------------


class Run:
    """A run directory that this process writes to, and nobody else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.checkpoints = directory / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.metrics = directory / "metrics.csv"
        self.summary: dict[str, Any] = read_summary(directory) or {}
        self._mistake = directory / "mistake"
        self._lock = Lock(directory / "lock")
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
        for killed in [*self.directory.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]:
            killed.unlink(missing_ok=True)  # half-written by a process that was killed
        self.told()  # what a killed segment left
        self.summary = read_summary(self.directory) or {}
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

    def start(self, facts: Mapping[str, Any], *, world_size: int, step: int) -> None:
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

    def update(self, **fields: Any) -> None:
        """Write summary.json with these fields changed."""
        self.summary.update(fields)
        self.summary["heartbeat"] = _now()
        self.summary["seconds"] = round(self._seconds_before + time.monotonic() - self._started, 3)
        if self.summary.get("segments"):
            last = self.summary["segments"][-1]
            last["to_step"] = self.summary.get("global_step", 0)
            last["seconds"] = round(time.monotonic() - self._started, 3)
        write_atomically(self.directory / "summary.json", json.dumps(_plain(self.summary), indent=2) + "\n")

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


def _plain(value: Any) -> Any:
    """Return the value with what JSON cannot say, not a number and infinity, as null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _segment(world_size: int, step: int) -> dict[str, Any]:
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
