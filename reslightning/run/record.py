"""A run as it is read back, from its directory or from W&B, whole or cut."""

from __future__ import annotations

import contextlib
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

from reslightning.errors import UserError
from reslightning.files import printable, read_json, read_rows
from reslightning.ranges import check_values
from reslightning.run import layout
from reslightning.run.lock import DEAD_AFTER
from reslightning.run.provenance import mixed_code
from reslightning.run.summary import FORMAT, Summary, believe, is_number

LOST_AFTER = 600.0  # seconds without a sign of life after which a running run without a lock is lost


def read_summary(directory: Path) -> Summary | None:
    """Return a run directory's summary.json; None where there is no whole one."""
    summary, whole = read_json(directory / layout.SUMMARY)
    check_format(directory, summary)
    return cast(Summary, summary) if whole else None


def kept_summary(directory: Path) -> tuple[Summary, str | None]:
    """Return what can be believed of summary.json, also of one that is cut, and a line that says so of that."""
    facts, whole = read_json(directory / layout.SUMMARY)
    check_format(directory, facts)
    summary, _ = believe(facts)
    if whole or not (directory / layout.SUMMARY).exists():
        return summary, None
    return summary, f"{directory}: summary.json is cut, what it still says is kept: {', '.join(summary) or 'nothing'}"


def check_format(directory: Path, facts: Mapping[str, Any]) -> None:
    """Raise UserError for a run of a format that this version does not know: it would be read wrongly, or rewritten."""
    if is_number(form := facts.get("format")) and form != FORMAT:
        raise UserError(
            f"{directory} is a run of format {form}, and this version of reslightning knows {FORMAT}\nUse "
            "the version that made it."
        )


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
    summary: Summary
    history: list[dict[str, float]]
    problems: list[str] = field(default_factory=list)
    heartbeat: float | None = None
    dead: bool = True

    def __post_init__(self) -> None:
        """Drop, and name, what cannot be believed."""
        self.summary, lines = believe(self.summary)
        self.problems += lines
        rows = {row["epoch"]: row for row in self.history if math.isfinite(row.get("epoch", math.nan))}
        self.history = [rows[epoch] for epoch in sorted(rows)]

    @classmethod
    def from_directory(cls, directory: Path) -> RunRecord:
        """Read a run directory, also one that is cut or still being written.

        Raises:
            UserError: it holds no run of this package's.
        """
        facts, whole = read_json(directory / layout.SUMMARY)
        check_format(directory, facts)
        summary = cast(Summary, facts)
        rows, rows_whole = read_rows(directory / layout.METRICS)
        if not summary and not rows:
            raise UserError(f"{directory}: no summary.json and no metrics.csv of a run, or nothing whole in them")
        if not {"arch", "run_id", "segments", "format", "identity"} & summary.keys() and not {"epoch", "step"} <= (
            rows[0].keys() if rows else set()
        ):
            raise UserError(f"{directory}: its files are not a run's of reslightning")
        problems = [] if whole else ["summary.json is cut" if summary else "there is no whole summary.json"]
        if not rows_whole and summary.get("epoch"):
            problems.append(f"metrics.csv is cut behind row {len(rows)}" if rows else "there is no whole metrics.csv")
        record = cls(printable(directory.resolve().name), str(directory), summary, rows, problems)
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
            if row is not None and is_number(value) and name != "step" and there != value:
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


def load_runs(place: str | Path = "runs") -> list[RunRecord]:
    """Read every run at or below a folder, also those that are cut or still training.

    Folders that are no runs are warned of.

    Raises:
        UserError: there are none.
    """
    check_values(load_runs, {"place": place}, "")
    records, skipped = runs_below(Path(place).expanduser(), set())
    for line in skipped:
        warnings.warn(line, stacklevel=2)
    return records


def runs_below(path: Path, seen: set[Path]) -> tuple[list[RunRecord], list[str]]:
    """Return the runs at or below a path but those seen before, and lines on what of it is none.

    Raises:
        UserError: there are none.
    """
    records, skipped, known = [], [], False
    for directory in find_runs(path):
        if (place := directory.resolve()) in seen:
            known = True
            continue
        seen.add(place)
        try:
            records.append(RunRecord.from_directory(directory))
        except UserError as error:
            skipped.append(f"skipped {error}")
    if not records and not known:
        found = f"; {len(skipped)} folders were skipped:\n" + "\n".join(skipped[:5]) if skipped else ""
        looked = "looked for: folders with summary.json or metrics.csv, at any depth"
        there = "" if path.exists() else ", which does not exist"
        raise UserError(f"no runs at {path.absolute()}{there}{found}\n{looked}")
    return records, ([f"{len(skipped)} folders are no runs:"] if len(skipped) > 1 else []) + skipped


_OWN = {layout.CHECKPOINTS, layout.EVALUATIONS, layout.WANDB}


def find_runs(path: Path) -> list[Path]:
    """Return the folders at or below a path that may be runs, sorted; what a run itself keeps is not searched."""
    found, seen = [], set()
    for folder, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        # A run that was killed at its start has a lock and a folder for checkpoints alone.
        killed = layout.CHECKPOINTS in folders and not {layout.CONFIG, layout.LOCK}.isdisjoint(files)
        if real in seen:
            folders.clear()
        elif killed or not {layout.SUMMARY, layout.METRICS}.isdisjoint(files):
            found.append(Path(folder))
            folders[:] = set(folders) - _OWN
        seen.add(real)
        folders.sort()
    return found


def _signs_of_life(directory: Path, summary: Summary) -> tuple[float | None, bool]:
    """Return seconds since the last sign of life, and whether the lock is dead or gone."""
    ages = []
    with contextlib.suppress(KeyError, ValueError):
        ages.append(time.time() - datetime.fromisoformat(str(summary["heartbeat"])).timestamp())
    lock = directory / layout.LOCK
    dead = True
    with contextlib.suppress(OSError):
        ages.append(time.time() - lock.stat().st_mtime)
        dead = ages[-1] > DEAD_AFTER
    return (max(min(ages), 0.0) if ages else None), dead


def weights_file(source: str) -> str:
    """Return where the weights are that ``source`` names: of a run directory its checkpoint, else what was named."""
    path = Path(source).expanduser()
    return str(evaluation_checkpoint(path)) if path.is_dir() else source


def run_of(checkpoint: Path) -> Path | None:
    """Return the run directory that a checkpoint lies in; None where it lies in none."""
    above = checkpoint.parents[1:3]  # in checkpoints/, or in callbacks/ there
    return next((run for run in above if (run / layout.CONFIG).is_file() and (run / layout.SUMMARY).is_file()), None)


def evaluation_checkpoint(directory: Path) -> Path:
    """Return the checkpoint that stands for a run: best with a held-out split, else last.

    Raises:
        UserError: the directory is no run's, or has no checkpoint.
    """
    summary = read_summary(directory)
    if not summary:
        why = (
            "its summary.json is cut, or no file" if (directory / layout.SUMMARY).exists() else "it has no summary.json"
        )
        raise UserError(f"{directory} is no run directory: {why}")
    if not {"run_id", "identity", "format"} & summary.keys():
        raise UserError(f"{directory} is no run directory: its summary.json is not a run's")
    name = layout.BEST if summary.get("val_source") == "held-out" else layout.LAST
    path = directory / layout.CHECKPOINTS / name
    if not path.is_file():
        raise UserError(f"{directory} has no checkpoints/{name} yet: let the run finish an epoch first")
    return path
