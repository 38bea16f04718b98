"""What is compared of runs: columns, filters, groups over seeds, differences; without torch."""

from __future__ import annotations

import math
import operator
import re
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reslightning.errors import UserError, near_misses
from reslightning.reference import Published, published
from reslightning.runs import RunRecord

Value = str | float | int | None


def _error(row: Mapping[str, float], name: str) -> float | None:
    value = row.get(name)
    return None if value is None else 100 * (1 - value)


def known(run: RunRecord) -> Published | None:
    """Return the published result of a run's network, data set and protocol; None where there is none."""
    summary = run.summary
    if summary.get("val_source") != "test":
        return None  # held-out images are not what others are measured on
    try:
        return published(
            str(summary["arch"]),
            summary["dataset"],
            summary.get("protocol", "center"),
            summary.get("shortcut"),
            summary.get("version"),
            images=(summary.get("n_samples") or {}).get("test"),
        )
    except (KeyError, UserError):
        return None


def _difference(run: RunRecord) -> float | None:
    row, found = known(run), _error(run.result[0], "val/top1")
    return None if row is None or row.top1 is None or found is None else found - row.top1


def _published(run: RunRecord) -> float | None:
    row = known(run)
    return row.top1 if row else None


def _epochs(run: RunRecord) -> str:
    done = int(run.last.get("epoch", run.summary.get("epoch") or 0))
    return f"{done}/{run.summary.get('epochs') or '?'}"


def _fact(name: str) -> Callable[[RunRecord], Value]:
    return lambda run: run.summary.get(name)


# A column's name, and its value of a run: errors in percent, accuracies nowhere.
COLUMNS: dict[str, Callable[[RunRecord], Value]] = {
    "run": lambda run: run.name,
    "arch": _fact("arch"),
    "top1": lambda run: _error(run.result[0], "val/top1"),
    "top5": lambda run: _error(run.result[0], "val/top5"),
    "of": lambda run: run.result[1],
    "published": _published,
    "difference": _difference,
    "parameters": _fact("parameters"),
    "flops": lambda run: None if (adds := run.summary.get("multiply_adds")) is None else 2 * adds,
    "status": lambda run: run.status,
    "epoch": _epochs,
    "heartbeat": lambda run: run.heartbeat,
    "images_per_second": _fact("images_per_second"),
    "seconds": _fact("seconds"),
    "gpu_hours": lambda run: run.device_hours if run.summary.get("device") == "cuda" else None,
    "device_hours": lambda run: run.device_hours,
    "last_top1": lambda run: _error(run.last, "val/top1"),
    "best_top1": lambda run: _error(run.best, "val/top1"),
    "best_epoch": lambda run: run.best.get("epoch"),
    "train_top1": lambda run: _error(run.last, "train/top1"),
    "train_loss": lambda run: run.last.get("train/loss"),
    "val_loss": lambda run: run.last.get("val/loss"),
    "data_wait": _fact("data_wait"),
    "minutes_lost": _fact("minutes_lost"),
    "seed": _fact("seed"),
    "dataset": _fact("dataset"),
    "protocol": lambda run: run.summary.get("protocol", "center"),
    "val_source": _fact("val_source"),
    "shortcut": _fact("shortcut"),
    "version": _fact("version"),
    "steps": _fact("global_step"),
    "segments": lambda run: len(run.summary.get("segments") or []),
    "world_size": _fact("world_size"),
    "group": _fact("group"),
    "identity": _fact("identity"),
    "run_id": _fact("run_id"),
    "source": lambda run: run.source,
}
DEFAULT = (
    *("run", "arch", "top1", "top5", "of", "published", "difference", "parameters", "flops", "status", "epoch"),
    *("heartbeat", "images_per_second", "seconds", "gpu_hours"),
)


def column(name: str, keys: Collection[str]) -> Callable[[RunRecord], Value]:
    """Return how a column's value is found: one of COLUMNS, or an option of the runs.

    Raises:
        UserError: there is no such column.
    """
    if name in COLUMNS:
        return COLUMNS[name]
    if name in keys:
        return lambda run: _plain((run.summary.get("options") or {}).get(name))
    allowed = [*COLUMNS, *sorted(keys)]
    raise UserError(
        f"unknown column {name!r}{near_misses(name, allowed)}\nallowed: {', '.join(COLUMNS)}, and the runs' options: "
        f"{', '.join(sorted(keys)) or 'none are recorded'}"
    )


def _plain(value: Any) -> Value:
    return value if isinstance(value, str | int | float | None) else str(value)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Filter:
    """A condition on a column: top1<9, arch=resnet20, model.optim.lr!=0.1."""

    name: str
    sign: str
    wanted: str
    keys: frozenset[str]

    @classmethod
    def parse(cls, text: str, keys: Collection[str]) -> Filter:
        """Return what a text says.

        Raises:
            UserError: it is no condition, or its column is unknown.
        """
        match = re.fullmatch(r"([\w./-]+?)\s*(!=|<=|>=|=|<|>)\s*(.+)", text)
        if not match:
            raise UserError(f"--filter {text!r} is no condition; expected KEY=VALUE, also !=, <, >, <= and >=")
        column(match[1], keys)
        return cls(match[1], match[2], match[3], frozenset(keys))

    def __call__(self, run: RunRecord) -> bool:
        """Whether it holds of a run; a value that is not there fulfils != alone."""
        value = column(self.name, self.keys)(run)
        if value is None:
            return self.sign == "!="
        if isinstance(value, bool):
            return OPERATORS[self.sign](str(value).lower(), self.wanted.lower())
        if isinstance(value, int | float):
            try:
                return OPERATORS[self.sign](value, float(self.wanted))
            except ValueError:
                return self.sign == "!="
        return OPERATORS[self.sign](value, self.wanted)


def select(runs: Sequence[RunRecord], filters: Sequence[Filter]) -> list[RunRecord]:
    """Return the runs of which every condition holds."""
    return [run for run in runs if all(condition(run) for condition in filters)]


def sections(runs: Sequence[RunRecord]) -> list[tuple[str, list[RunRecord]]]:
    """Divide runs into those that may be ranked together: one data set, protocol and kind of validation."""
    found: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in runs:
        facts = run.summary
        key = (str(facts.get("dataset", "?")), facts.get("protocol", "center"), str(facts.get("val_source", "?")))
        found.setdefault(key, []).append(run)
    return [
        (f"{data}, {protocol}, validated on {'held-out images' if source == 'held-out' else 'the test set'}", part)
        for (data, protocol, source), part in sorted(found.items())
    ]


# -- groups ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistic:
    """A number over runs: mean, sample standard deviation, and half of the mean's 95 % interval (Student's t)."""

    mean: float
    deviation: float | None
    interval: float | None
    n: int


@dataclass
class Group:
    """Runs that make one row; most often one."""

    runs: list[RunRecord]
    label: str = ""
    differs: Sequence[str] = ()

    def value(self, name: str, keys: Collection[str]) -> Value | Statistic:
        """Return a column's value: a run's own, or over several what they have in common or their statistic."""
        values = [column(name, keys)(run) for run in self.runs]
        if len(self.runs) == 1:
            return values[0]
        if name == "run":
            return self.label
        if len(set(map(str, values))) == 1 and name not in STATISTICS:
            return values[0]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
        if not numbers or name in PER_RUN:
            return ", ".join(dict.fromkeys("" if v is None else str(v) for v in values)) if name in LISTED else None
        return statistic(numbers)


STATISTICS = {"top1", "top5", "difference", "last_top1", "best_top1", "train_top1", "train_loss", "val_loss"}
PER_RUN = {"heartbeat", "seed", "run_id", "identity", "source", "best_epoch"}  # no mean of these says anything
LISTED = {"seed", "status", "of", "epoch"}


def statistic(numbers: Sequence[float]) -> Statistic:
    """Return the statistic of numbers; one alone has no deviation."""
    count, mean = len(numbers), statistics.fmean(numbers)
    if count < 2:
        return Statistic(mean, None, None, count)
    from scipy.stats import t

    deviation = statistics.stdev(numbers)
    return Statistic(mean, deviation, float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count), count)


def grouped(runs: Sequence[RunRecord], by: str, keys: Collection[str]) -> list[Group]:
    """Return a group for each value of a column, with the options, but the seed, in which its runs differ."""
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        found.setdefault(str(column(by, keys)(run)), []).append(run)
    return [
        Group(members, label, [key for key in differing(members) if key != "seed_everything"])
        for label, members in found.items()
    ]


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """Return the options that are not the same in all runs, sorted."""
    options = [run.summary.get("options") or {} for run in runs]
    keys = sorted(set().union(*options))
    return [key for key in keys if len({str(option.get(key)) for option in options}) > 1]
