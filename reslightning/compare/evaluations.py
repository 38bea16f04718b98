"""Runs by what validate and test said of them under one test protocol, not by their training's validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from reslightning.errors import UserError, near_misses
from reslightning.files import read_json
from reslightning.run import layout
from reslightning.run.record import RunRecord
from reslightning.run.summary import Summary, is_number


@dataclass
class Evaluated(RunRecord):
    """A run of which one evaluation counts, whose metrics are named as a validation's.

    Attributes:
        row: the metrics.
        used: which of the run's weights were evaluated.
    """

    row: dict[str, float] = field(default_factory=dict)
    used: str = ""

    @property
    def validated(self) -> dict[str, float]:
        """The evaluation's metrics."""
        return self.row

    @property
    def result(self) -> tuple[dict[str, float], str]:
        """The evaluation's metrics, and of which weights they are."""
        return self.row, self.used


def evaluated(runs: Sequence[RunRecord], protocol: str) -> tuple[list[RunRecord], list[str]]:
    """Return a run for each evaluation by a protocol, and lines on what else they differ in from their runs.

    Args:
        runs: of directories; those from W&B have no evaluations.
        protocol: as evaluations are called: ten-crop, center-232-224, dense-logits.

    Raises:
        UserError: there are none.
    """
    found: list[RunRecord] = []
    notes, others = list[str](), set[str]()
    for run in runs:
        records = _records(run)
        mine = {name: record for name, record in records.items() if record["protocol"] == protocol}
        others |= {record["protocol"] for record in records.values()}
        if not mine:
            notes.append(f"{run.name} has no evaluation by {protocol}")
        for name, record in mine.items():
            one = _evaluated(run, record, f"{run.name} ({name})" if len(mine) > 1 else run.name)
            found.append(one)
            notes += [f"{one.name} differs from the run: {line}" for line in record.get("differences") or ()]
    if not found:
        there = f"there are: {', '.join(sorted(others))}" if others else "there are none by any"
        raise UserError(
            f"no run has an evaluation by {protocol!r}{near_misses(protocol, others)}\n{there}\nMake one: reslightning "
            f"test --run_dir RUN --protocol {protocol}"
        )
    return found, notes


def _records(run: RunRecord) -> dict[str, dict[str, Any]]:
    """Return a run's whole evaluations by their files' names."""
    files = sorted((Path(run.source) / layout.EVALUATIONS).glob("*.json"))
    contents = {file.stem: read_json(file) for file in files}
    return {
        name: record
        for name, (record, whole) in contents.items()
        if whole and isinstance(record.get("protocol"), str) and isinstance(record.get("metrics"), dict)
    }


def _evaluated(run: RunRecord, record: Mapping[str, Any], name: str) -> Evaluated:
    split = record.get("split")
    metrics = {key: value for key, value in record["metrics"].items() if is_number(value)}
    facts: dict[str, Any] = {**run.summary, "protocol": record["protocol"], "recalibrated": record.get("recalibrated")}
    facts["dataset"] = record.get("dataset", facts.get("dataset"))
    if split == "test" and facts.get("val_source") == "held-out":
        facts |= {"val_source": "test", "val_part": record.get("part")}
    digest, there = (record.get("fingerprint") or {}).get("data"), facts.get("fingerprint") or {}
    if digest and there.get("data"):
        facts["fingerprint"] = {**there, "data": {**there["data"], "digest": digest}}
    return Evaluated(
        name,
        run.source,
        cast(Summary, facts),
        run.history,
        list(run.problems),
        run.heartbeat,
        run.dead,
        {key.replace(f"{split}/", "val/"): value for key, value in metrics.items()},
        Path(str(record.get("checkpoint"))).stem,
    )
