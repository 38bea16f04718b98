"""What is known of a run: columns, filters on them, and the options in which runs differ; without torch."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from reslightning.errors import UserError, near_misses
from reslightning.models.published import beside
from reslightning.run.record import RunRecord

Value = str | float | int | None


def _error(row: Mapping[str, float], name: str) -> float | None:
    value = row.get(name)
    return None if value is None else 100 * (1 - value)


def _published(run: RunRecord) -> float | None:
    row = beside(run.summary, run.validated.get("val/n_samples"))
    return row.top1 if row else None


def _difference(run: RunRecord) -> float | None:
    there, found = _published(run), _error(run.result[0], "val/top1")
    return None if there is None or found is None else found - there


def _source(run: RunRecord) -> str | None:
    row = beside(run.summary, run.validated.get("val/n_samples"))
    return row.source if row else None


def _epochs(run: RunRecord) -> str:
    done = int(run.last.get("epoch", run.summary.get("epoch") or 0))
    return f"{done}/{run.summary.get('epochs') or '?'}"


def _fact(name: str) -> Callable[[RunRecord], Value]:
    return lambda run: cast(Value, run.summary.get(name))


# A column's name, and its value of a run: errors in percent, accuracies nowhere.
COLUMNS: dict[str, Callable[[RunRecord], Value]] = {
    "run": lambda run: run.name,
    "arch": _fact("arch"),
    "top1": lambda run: _error(run.result[0], "val/top1"),
    "top5": lambda run: _error(run.result[0], "val/top5"),
    "of": lambda run: run.result[1],
    "published": _published,
    "published_source": _source,
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
    "last_top1": lambda run: _error(run.validated, "val/top1"),
    "best_top1": lambda run: _error(run.best, "val/top1"),
    "best_epoch": lambda run: run.best.get("epoch"),
    "train_top1": lambda run: _error(run.last, "train/top1"),
    "train_loss": lambda run: run.last.get("train/loss"),
    "val_loss": lambda run: run.validated.get("val/loss"),
    "data_wait": _fact("data_wait"),
    "gpu_memory": lambda run: run.last.get("gpu_memory"),
    "minutes_lost": _fact("minutes_lost"),
    "seed": _fact("seed"),
    "dataset": _fact("dataset"),
    "protocol": _fact("protocol"),
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


def usual_columns(runs: Sequence[RunRecord]) -> list[str]:
    """Return the usual columns without those that would be empty; of a grid's runs its keys, too."""
    names = [name for name in DEFAULT if any(COLUMNS[name](run) is not None for run in runs)]
    groups = {run.summary.get("group") for run in runs}
    if len(groups) == 1 and None not in groups:
        at = names.index("top1") if "top1" in names else len(names)
        names[at:at] = [key for key in differing(runs) if key != "model.arch"]
    return names


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
    "<=": operator.le,
    ">=": operator.ge,
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
            raise UserError(
                f"--filter {text!r} is no condition; expected KEY=VALUE, also !=, <, >, <= and >=; runs stand before it"
            )
        column(match[1], keys)
        return cls(match[1], match[2], match[3], frozenset(keys))

    def __call__(self, run: RunRecord) -> bool:
        """Whether it holds of a run; a value that is not there fulfils != alone.

        Raises:
            UserError: the column's values cannot be compared like this.
        """
        value = column(self.name, self.keys)(run)
        if value is None:
            return self.sign == "!="
        if self.name == "epoch":
            value = int(str(value).partition("/")[0])
        number = isinstance(value, int | float) and not isinstance(value, bool)
        wanted = _number(self.wanted) if number else None
        equality = self.sign in ("=", "!=")
        if wanted is None and (not equality or (number and self.name in COLUMNS)):
            kind, allowed = ("a number", "a number") if number else ("text", "= and !=")
            raise UserError(
                f"--filter {self.name}{self.sign}{self.wanted}: {self.name} is {kind} ({value}); allowed: {allowed}"
            )
        if not equality:
            return OPERATORS[self.sign](value, wanted)
        # A run that is shown as 10.00 may have 9.999999999999998.
        texts = [re.sub(r"\s", "", text).lower() for text in (str(value), self.wanted)]  # of a list with spaces or none
        same = texts[0] == texts[1] if wanted is None else math.isclose(float(value), wanted)
        return same == (self.sign == "=")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def select(runs: Sequence[RunRecord], filters: Sequence[Filter]) -> list[RunRecord]:
    """Return the runs of which every condition holds."""
    return [run for run in runs if all(condition(run) for condition in filters)]


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """Return the options that are not the same in all runs, sorted."""
    options = [run.summary.get("options") or {} for run in runs]
    keys = sorted(set().union(*options))
    return [key for key in keys if len({str(option.get(key)) for option in options}) > 1]
