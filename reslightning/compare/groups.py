"""Which runs may be compared, and what several have in common: tables, groups over seeds; without torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reslightning.compare.columns import COLUMNS, Column, Over, Value, differing
from reslightning.run.record import RunRecord
from reslightning.run.summary import is_number, validated_on


class Section(NamedTuple):
    """Runs of one table. They may be ranked where it is known that all were validated on the same images alike."""

    title: str
    runs: list[RunRecord]
    ranked: bool


def sections(runs: Sequence[RunRecord]) -> list[Section]:
    """Divide runs into those that may be ranked together, and last those of which that is not known."""
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        found.setdefault(_validation(run), []).append(run)
    unknown = found.pop("", None)
    for title in list(found):
        contents = {_content(run) for run in found[title]}
        if len(contents - {""}) > 1:  # the same words for other images
            for run in found.pop(title):
                found.setdefault(f"{title}, {_content(run) or 'data unknown'}", []).append(run)
    divided = [Section(title, members, True) for title, members in sorted(found.items())]
    if unknown:
        divided.append(Section("data set, protocol or validation unknown: not ranked", unknown, False))
    return divided


def _validation(run: RunRecord) -> str:
    """Return on what and how a run was validated, in words; empty where that is not known."""
    facts = run.summary
    data, protocol, source = (facts.get(name) for name in ("dataset", "protocol", "val_source"))
    if not (data and protocol and source):
        return ""
    classes = f" with {facts['classes']} classes" if data == "ImageFolder" and facts.get("classes") else ""
    count = run.validated.get("val/n_samples") or (facts.get("n_samples") or {}).get("val")
    number = f" ({int(count):,} images)" if isinstance(count, int | float) and math.isfinite(count) else ""
    images = validated_on(str(source), facts.get("val_part"))
    if is_number(over := facts.get("recalibrated")):
        protocol = f"{protocol} with batch statistics over {over:,} training images"
    return f"{data}{classes}, {protocol}, validated on {images}{number}"


def _content(run: RunRecord) -> str:
    """Return which data a run is on, in words; empty where that is not recorded."""
    data = run.summary.get("fingerprint", {}).get("data")
    return f"data {data['digest'][:4]} ({', '.join(data['classes'][:3])}, ...)" if data else ""


@dataclass(frozen=True)
class Statistic:
    """A number over runs: mean, sample standard deviation, and half of the mean's 95 % interval (Student's t).

    ``n`` runs have the number, of ``runs``.
    """

    mean: float
    deviation: float | None
    interval: float | None
    n: int
    runs: int


@dataclass
class Group:
    """Runs that make one row; most often one."""

    runs: list[RunRecord]
    key: Mapping[str, str] = field(default_factory=dict)  # the columns it is grouped by, and their values

    @property
    def label(self) -> str:
        """What it is called: the run's name, or what its runs have in common."""
        return ", ".join(self.key.values()) or self.runs[0].name

    def value(self, column: Column) -> Value | Statistic:
        """Return a column's value: a run's own, or over several what they have in common or their statistic."""
        if column.name in self.key:
            return self.key[column.name]
        values = [column.value(run) for run in self.runs]
        if len(values) == 1:
            return values[0]
        match column.over:
            case Over.COUNT:
                return len(values)
            case Over.NAME:
                return self.label
            case Over.MEAN | Over.COST:
                numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
                return statistic(numbers, len(values)) if numbers else None
        if len(set(map(str, values))) == 1:
            return values[0]
        if column.over is Over.SHARED:
            return None
        found = {v for v in values if v is not None}
        return ", ".join(map(str, sorted(found, key=lambda v: (isinstance(v, str), v))))

    @property
    def notes(self) -> list[str]:
        """What to know of a mean: in which options its runs differ, but the seed, and which are not finished."""
        if len(self.runs) == 1:
            return []
        lines = []
        if keys := [key for key in differing(self.runs) if key != "seed_everything"]:
            lines.append(f"{self.label}: its runs differ in {', '.join(keys)}")
        epoch = COLUMNS["epoch"].value
        unfinished = [f"{run.name} ({run.status}, {epoch(run)})" for run in self.runs if run.status != "finished"]
        if unfinished:
            lines.append(f"{self.label}: {len(unfinished)} of {len(self.runs)} not finished: {', '.join(unfinished)}")
        return lines


class Table(NamedTuple):
    """A table's title and its rows, in order."""

    title: str
    groups: Sequence[Group]


def statistic(numbers: Sequence[float], runs: int) -> Statistic:
    """Return the statistic of the numbers that so many runs have; one alone has no deviation."""
    count, mean = len(numbers), statistics.fmean(numbers)
    if count < 2:
        return Statistic(mean, None, None, count, runs)
    from scipy.stats import t

    deviation = statistics.stdev(numbers)
    half = float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    return Statistic(mean, deviation, half, count, runs)


def grouped(section: Section, by: Sequence[Column]) -> list[Group]:
    """Return a group for each value of columns; every run by itself without any, or where none may be ranked."""
    if not by or not section.ranked:
        return [Group([run]) for run in section.runs]
    found: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in section.runs:
        values = (column.value(run) for column in by)
        found.setdefault(tuple("none" if value is None else str(value) for value in values), []).append(run)
    names = [column.name for column in by]
    return [Group(members, dict(zip(names, values, strict=True))) for values, members in found.items()]
