"""Runs from W&B's server, as records; its private offline files are not read: every run has its own."""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import Any

from reslightning.errors import UserError
from reslightning.runs import RunRecord

COLUMNS = ("epoch", "step", "train/loss", "train/top1", "val/loss", "val/top1", "val/top5", "lr")
STATES = {"running": "running", "finished": "finished", "failed": "failed", "crashed": "lost", "killed": "failed"}


def read_project(path: str, *, group: str | None = None, api: Any = None) -> tuple[list[RunRecord], str | None]:
    """Return a project's runs, and what went wrong behind them, if anything did.

    Args:
        path: ENTITY/PROJECT.
        group: only the runs of a group.
        api: a ``wandb.Api``; none given means a new one, with the user's key.

    Raises:
        UserError: nothing could be read.
    """
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
    try:
        for run in api.runs(path, filters=filters, order="+created_at", per_page=50):
            records.append(_record(run))
    except Exception as error:  # whatever the network or the server answers, at any page
        if not records:
            raise UserError(f"W&B did not give the runs of {path}: {error}") from error
        return records, f"wandb:{path}: only {len(records)} runs were read before the server failed: {error}"
    if not records:
        raise UserError(f"W&B has no runs in {path}" + (f" of the group {group!r}" if group else ""))
    return records, None


def _record(run: Any) -> RunRecord:
    config = dict(run.config)
    facts = config.get("run") or {}
    summary = {
        **facts,
        "run_id": run.id,
        "status": (dict(run.summary).get("status") or STATES.get(run.state, run.state)),
        "group": run.group,
    }
    rows: dict[float, dict[str, float]] = {}
    for row in run.scan_history(keys=None):
        if (epoch := row.get("epoch")) is not None:
            rows.setdefault(float(epoch), {}).update({k: _number(row[k]) for k in COLUMNS if row.get(k) is not None})
    history = [rows[epoch] for epoch in sorted(rows)]
    if history:
        summary.setdefault("epoch", int(history[-1]["epoch"]))
    problems = [] if facts else ["it was not recorded by this package: only curves and names are known"]
    seen = _age(getattr(run, "heartbeat_at", None))
    return RunRecord(run.name, f"wandb:{'/'.join(run.path)}", summary, history, problems, seen, run.state != "running")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan  # W&B writes "NaN" as text


def _age(moment: str | None) -> float | None:
    if not moment:
        return None
    try:
        return max(time.time() - datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp(), 0.0)
    except ValueError:
        return None
