"""Ranges of options, declared with their types: ``Annotated[float, Range("a positive number")]``; without torch."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

from reslightning.errors import UserError

_INTERVAL = re.compile(r"([\[(])(\d+), (\d+)([\])])")
_LEAST = re.compile(r"(\d+) or more")


class Range:
    """The values that an option may have, in the words of the message about one that it may not.

    Args:
        words: with an interval ("a fraction in (0, 1]"), "N or more", or "positive", for a list each of its values;
            "in ascending order" is one more condition on a list.
    """

    def __init__(self, words: str) -> None:
        self.words = words
        interval, least = _INTERVAL.search(words), _LEAST.search(words)
        self.low, self.above, self.high, self.below = 0.0, "positive" in words, float("inf"), False
        if interval:
            self.above, self.below = interval[1] == "(", interval[4] == ")"
            self.low, self.high = float(interval[2]), float(interval[3])
        elif least:
            self.low = float(least[1])
        elif not self.above:
            raise ValueError(f"a range that says nothing: {words!r}")

    def __contains__(self, value: Any) -> bool:
        """Whether a finite number, or every number of a list that has some, is in the range."""
        numbers = list(value) if isinstance(value, list | tuple) else [value]
        if not numbers or ("in ascending order" in self.words and numbers != sorted(numbers)):
            return False
        return all(
            math.isfinite(number)
            and (self.low < number if self.above else self.low <= number)
            and (number < self.high if self.below else number <= self.high)
            for number in numbers
        )


def parameters(owner: type, *, ranges: bool = False) -> dict[str, Any]:
    """Return the types of a constructor's parameters, its bases' too, which take what it passes on.

    Args:
        owner: the class.
        ranges: whether a type has its range with it.
    """
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        if inspect.isfunction(init := vars(base).get("__init__")):
            try:
                hints = get_type_hints(init, include_extras=ranges)
            except NameError:  # a type that is imported for type checkers alone
                hints = {}
            for parameter in list(inspect.signature(init).parameters.values())[1:]:
                if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                    found[parameter.name] = hints.get(parameter.name, Any)
    return found


def check_ranges(owner: type, values: Mapping[str, Any], group: str) -> None:
    """Raise UserError for a value outside the range that its parameter is declared with.

    Args:
        owner: the class whose constructor declares them, in its signature or as fields.
        values: by the parameters' names; None is always allowed.
        group: what the options' names begin with on the command line: data, model.optim.
    """
    for name, hint in parameters(owner, ranges=True).items():
        value = values.get(name)
        for allowed in _ranges(hint):
            if value is not None and value not in allowed:
                raise UserError(f"{group}.{name}={value} is out of range; allowed: {allowed.words}")


def _ranges(hint: Any) -> Iterator[Range]:
    yield from (extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range))
    for part in get_args(hint):
        yield from _ranges(part)
