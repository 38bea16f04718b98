"""W&B's server: runs read from it as records; without torch.

Its private offline files are not read: every run has its own.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, cast

from tqdm import tqdm

from reslightning.errors import UserError
from reslightning.run.record import RunRecord
from reslightning.run.summary import Summary

# W&B's states of a run that say more than the status that it was left with: it may have been requeued since.
STATES = {"running": "running", "crashed": "lost", "pending": "preempted", "preempting": "preempted"}
ENDED = {"finished": "finished", "failed": "failed", "killed": "failed", "preempted": "preempted"}
# What a run's configuration says of its cost is from the beginning of a segment.
COST = ("epoch", "global_step", "seconds", "images_per_second", "data_wait")


def read_project(path: str, *, group: str | None = None, api: Any = None) -> tuple[list[RunRecord], list[str]]:
    """Return a project's runs, and what there is to say of those that could not be read.

    Args:
        path: ENTITY/PROJECT.
        group: only the runs of a group.
        api: a ``wandb.Api``; none given means a new one, with the user's key.

    Raises:
        UserError: nothing could be read.
    """
    if not re.fullmatch(r"[^/\s]+/[^/]+", path):
        raise UserError(f"wandb:{path} is no project; expected wandb:ENTITY/PROJECT")
    if api is None:
        import wandb

        try:
            api = wandb.Api()
        except Exception as error:
            raise UserError(
                f"W&B cannot be asked: {error}\nLog in with `wandb login`, or name run directories."
            ) from error
    filters = {"group": group} if group else None
    records: list[RunRecord] = []
    notes: list[str] = []
    try:
        runs = api.runs(path, filters=filters, order="+created_at", per_page=50, lazy=False)
        for run in tqdm(runs, unit=" runs", leave=False, disable=None):
            history = list(run.scan_history())
            try:
                records.append(_record(run, history))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                notes.append(f"skipped wandb:{path}/{run.id}: it is not a run of reslightning's: {error!r}")
    except Exception as error:  # whatever the network or the server answers, at any page
        if not records:
            raise UserError(f"W&B did not give the runs of {path}: {error}") from error
        notes.append(f"wandb:{path}: only {len(records)} runs were read before the server failed: {error}")
    if not records:
        of = f" of the group {group!r}" if group else ""
        raise UserError("\n".join([f"W&B has no runs in {path}{of}", *notes]))
    return records, notes


def _record(run: Any, history: Iterable[Mapping[str, Any]]) -> RunRecord:
    start, end = _mapping(run.config.get("run")), _mapping(run.summary_metrics.get("run"))
    if _segments(end) >= _segments(start):
        facts = {**start, **end}
    else:  # its last segment has not ended, or was killed
        facts = {name: value for name, value in start.items() if name not in (*COST, "segments")}
    left = run.summary_metrics.get("status") or ENDED.get(run.state, run.state)
    problems = [] if start or end else ["it was not recorded by this package: only curves and names are known"]
    return RunRecord(
        run.name or run.id,
        f"wandb:{'/'.join(run.path)}",
        cast(Summary, {**facts, "run_id": run.id, "status": STATES.get(run.state, left), "group": run.group}),
        _epochs(history),
        problems,
        _age(getattr(run, "heartbeat_at", None)),
        run.state != "running",
    )


def _epochs(history: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return a row for each epoch, of all that was logged for it, the later values counting."""
    rows: dict[float, dict[str, float]] = {}
    for logged in history:
        numbers = {name: number for name, value in logged.items() if (number := _logged(value)) is not None}
        if "trainer/global_step" in numbers:
            numbers["step"] = numbers.pop("trainer/global_step")
        if "epoch" in numbers:
            rows.setdefault(numbers["epoch"], {}).update(numbers)
    return list(rows.values())


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _segments(facts: Mapping[str, Any]) -> int:
    segments = facts.get("segments")
    return len(segments) if isinstance(segments, list) else 0


def _logged(value: Any) -> float | None:
    if value in ("NaN", "Infinity", "-Infinity"):  # W&B writes them as text
        return math.nan
    return float(value) if isinstance(value, int | float) else None


def _age(moment: str | None) -> float | None:
    if not moment:
        return None
    try:
        return max(time.time() - datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp(), 0.0)
    except (AttributeError, TypeError, ValueError):
        return None
