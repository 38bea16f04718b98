"""What is known of a run, a column a row: its value, title, format, and what it is over several; without torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import cast

from reslightning.errors import UserError, near_misses
from reslightning.models.published import Published, beside
from reslightning.run.record import RunRecord
from reslightning.run.summary import error_percent

Value = str | float | int | None


class Over(Enum):
    """What a column is over several runs."""

    MEAN = auto()  # mean, deviation and the mean's interval
    COST = auto()  # mean and deviation
    EACH = auto()  # what they have in common, else all that there is: words and whole numbers
    SHARED = auto()  # what they have in common, else nothing
    NAME = auto()  # what they are called together
    COUNT = auto()  # how many they are


def number(value: float) -> str:
    """Return a number as it is, a fraction with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(value: float) -> str:
    """Return 9.5 as 9.50."""
    return f"{value:.2f}"


def signed_percent(value: float) -> str:
    """Return 9.5 as +9.50."""
    return f"{value:+.2f}"


def thousands(value: float) -> str:
    """Return 1234.5 as 1,234."""
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Return seconds as hours, minutes and seconds, from a hundred hours on as days."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours < 100 else f"{hours // 24} days"


def magnitude(value: float) -> str:
    """Return 269722 as 270 k, with M and G for what is larger."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:g}"


@dataclass(frozen=True)
class Column:
    """One thing that is known of a run.

    Attributes:
        name: what ``--columns``, ``--by``, ``--sort`` and ``--filter`` call it.
        value: its value of a run: errors in percent, accuracies nowhere; None where a run has none.
        over: what it is over several runs.
        title: its heading in tables to read; None is the name.
        format: a finite number as people read it; text stands as it is.
        usual: whether it is shown where nobody chooses.
    """

    name: str
    value: Callable[[RunRecord], Value]
    over: Over
    title: str | None = None
    format: Callable[[float], str] = number
    usual: bool = False

    @property
    def heading(self) -> str:
        """Its title, or its name without one."""
        return self.title or self.name


def _error(row: Mapping[str, float], name: str) -> float | None:
    value = row.get(name)
    return None if value is None else error_percent(value)


def _published(run: RunRecord) -> Published | None:
    return beside(run.summary, run.validated.get("val/n_samples"))


def _difference(run: RunRecord) -> float | None:
    row, found = _published(run), _error(run.result[0], "val/top1")
    return None if row is None or row.top1 is None or found is None else found - row.top1


def _epochs(run: RunRecord) -> str:
    done = int(run.last.get("epoch", run.summary.get("epoch") or 0))
    return f"{done}/{run.summary.get('epochs') or '?'}"


def _fact(name: str) -> Callable[[RunRecord], Value]:
    return lambda run: cast(Value, run.summary.get(name))


def _gpu_hours(run: RunRecord) -> float | None:
    return run.device_hours if run.summary.get("device") == "cuda" else None


MEAN, COST, EACH, SHARED = Over.MEAN, Over.COST, Over.EACH, Over.SHARED
ROWS = (
    Column("run", lambda run: run.name, Over.NAME, usual=True),
    Column("arch", _fact("arch"), EACH, usual=True),
    Column("top1", lambda run: _error(run.result[0], "val/top1"), MEAN, "top-1 error", percent, usual=True),
    Column("top5", lambda run: _error(run.result[0], "val/top5"), MEAN, "top-5 error", percent, usual=True),
    Column("balanced", lambda run: _error(run.result[0], "val/balanced"), MEAN, "balanced error", percent),
    Column("calibration", lambda run: run.result[0].get("val/calibration"), MEAN, "calibration error"),
    Column("of", lambda run: run.result[1], EACH, "epoch used", usual=True),
    Column("published", lambda run: row.top1 if (row := _published(run)) else None, SHARED, None, percent, usual=True),
    Column("published_source", lambda run: row.source if (row := _published(run)) else None, SHARED),
    Column("difference", _difference, MEAN, None, signed_percent, usual=True),
    Column("parameters", _fact("parameters"), SHARED, None, magnitude, usual=True),
    Column("multiply_adds", _fact("multiply_adds"), SHARED, "multiply-adds", magnitude, usual=True),
    Column("status", lambda run: run.status, EACH, usual=True),
    Column("epoch", _epochs, EACH, usual=True),
    Column("heartbeat", lambda run: run.heartbeat, SHARED, None, duration, usual=True),
    Column("images_per_second", _fact("images_per_second"), COST, "images/s", thousands, usual=True),
    Column("seconds", _fact("seconds"), COST, "time", duration, usual=True),
    Column("gpu_hours", _gpu_hours, COST, "GPU-hours", usual=True),
    Column("device_hours", lambda run: run.device_hours, COST, "device-hours"),
    Column("last_top1", lambda run: _error(run.validated, "val/top1"), MEAN, "last top-1", percent),
    Column("best_top1", lambda run: _error(run.best, "val/top1"), MEAN, "best top-1", percent),
    Column("best_epoch", lambda run: run.best.get("epoch"), EACH),
    Column("train_top1", lambda run: _error(run.last, "train/top1"), MEAN, "train top-1", percent),
    Column("train_loss", lambda run: run.last.get("train/loss"), MEAN),
    Column("val_loss", lambda run: run.validated.get("val/loss"), MEAN),
    Column("data_wait", _fact("data_wait"), COST),
    Column("gpu_memory", lambda run: run.last.get("gpu_memory"), COST),
    Column("minutes_lost", _fact("minutes_lost"), COST),
    Column("seed", _fact("seed"), EACH),
    Column("dataset", _fact("dataset"), EACH),
    Column("protocol", _fact("protocol"), EACH),
    Column("val_source", _fact("val_source"), EACH),
    Column("shortcut", _fact("shortcut"), EACH),
    Column("version", _fact("version"), EACH),
    Column("norm", _fact("norm"), EACH),
    Column("steps", _fact("global_step"), EACH),
    Column("segments", lambda run: len(run.summary.get("segments") or []), EACH),
    Column("world_size", _fact("world_size"), EACH),
    Column("group", _fact("group"), EACH),
    Column("identity", _fact("identity"), SHARED),
    Column("run_id", _fact("run_id"), SHARED),
    Column("source", lambda run: run.source, SHARED),
)
COLUMNS = {column.name: column for column in ROWS}
DEFAULT = tuple(column.name for column in ROWS if column.usual)
# How many runs a row has: not a run's, so no filter and no grouping knows it.
RUNS = Column("n", lambda run: 1, Over.COUNT)


def column(name: str, keys: Collection[str]) -> Column:
    """Return the column of a name: one of COLUMNS, or an option of the runs.

    Raises:
        UserError: there is no such column.
    """
    if name in COLUMNS:
        return COLUMNS[name]
    if name in keys:
        # Options stand as they were given: two that differ must not look the same.
        return Column(name, lambda run: _option(run, name), EACH, format=str)
    if name == "flops":
        raise UserError("there is no column 'flops': it was twice multiply_adds, which the paper counts; use that")
    allowed = [*COLUMNS, *sorted(keys)]
    raise UserError(
        f"unknown column {name!r}{near_misses(name, allowed)}\nallowed: {', '.join(COLUMNS)}, and the runs' options: "
        f"{', '.join(sorted(keys)) or 'none are recorded'}"
    )


def _option(run: RunRecord, name: str) -> Value:
    value = (run.summary.get("options") or {}).get(name)
    return value if isinstance(value, Value) else str(value)


def usual_columns(runs: Sequence[RunRecord]) -> list[str]:
    """Return the usual columns' names without those that would be empty; of a grid's runs its keys, too."""
    names = [name for name in DEFAULT if any(COLUMNS[name].value(run) is not None for run in runs)]
    groups = {run.summary.get("group") for run in runs}
    if len(groups) == 1 and None not in groups:
        at = names.index("top1") if "top1" in names else len(names)
        names[at:at] = [key for key in differing(runs) if key != "model.arch"]
    return names


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """Return the options that are not the same in all runs, sorted."""
    options = [run.summary.get("options") or {} for run in runs]
    keys = sorted(set().union(*options))
    return [key for key in keys if len({str(option.get(key)) for option in options}) > 1]
