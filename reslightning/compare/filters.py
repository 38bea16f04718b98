"""Conditions on what is known of a run: top1<9, arch=resnet20; without torch."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from reslightning.compare.columns import COLUMNS, Column, column
from reslightning.errors import UserError
from reslightning.run.record import RunRecord

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Filter:
    """A condition on a column: top1<9, arch=resnet20, model.optim.lr!=0.1."""

    column: Column
    sign: str
    wanted: str

    @classmethod
    def parse(cls, text: str, keys: Collection[str]) -> Filter:
        """Return what a text says.

        Raises:
            UserError: it is no condition, or its column is unknown.
        """
        match = re.fullmatch(r"([\w./-]+?)\s*(!=|<=|>=|==?|<|>)\s*(.+)", text)
        if not match:
            raise UserError(
                f"--filter {text!r} is no condition; expected KEY=VALUE, also !=, <, >, <= and >=; runs stand before it"
            )
        return cls(column(match[1], keys), match[2].replace("==", "="), match[3])

    def __call__(self, run: RunRecord) -> bool:
        """Whether it holds of a run; a value that is not there fulfils != alone.

        Raises:
            UserError: the column's values cannot be compared like this.
        """
        name, value = self.column.name, self.column.value(run)
        if value is None:
            return self.sign == "!="
        if name == "epoch":
            value = int(str(value).partition("/")[0])
        number = isinstance(value, int | float) and not isinstance(value, bool)
        wanted = _number(self.wanted) if number else None
        equality = self.sign in ("=", "!=")
        if wanted is None and (not equality or (number and name in COLUMNS)):
            kind, allowed = ("a number", "a number") if number else ("text", "= and !=")
            raise UserError(f"--filter {name}{self.sign}{self.wanted}: {name} is {kind} ({value}); allowed: {allowed}")
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
