"""What options may be, by their types and ranges: ``Annotated[float, Range("a positive number")]``; without torch."""

from __future__ import annotations

import inspect
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from reslightning.errors import UserError, near_misses

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


SEED = Range("a whole number in [0, 4294967295]")
HIDDEN = ("self", "cls")


@cache
def parameters(owner: Callable[..., Any], *, ranges: bool = False) -> Mapping[str, Any]:
    """Return the types of a constructor's parameters, its bases' too, which take what it passes on, or of a function's.

    Args:
        owner: the class or function.
        ranges: whether a type has its range with it.
    """
    found: dict[str, Any] = {}
    made = (
        [vars(base).get("__init__") for base in reversed(owner.__mro__)]
        if isinstance(owner, type)
        else [getattr(owner, "__func__", owner)]
    )
    for init in filter(inspect.isfunction, made):
        try:
            hints = get_type_hints(init, include_extras=ranges)
        except NameError:  # a type that is imported for type checkers alone
            hints = {}
        for parameter in inspect.signature(init).parameters.values():
            if (
                parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
                and parameter.name not in HIDDEN
            ):
                found[parameter.name] = hints.get(parameter.name, Any)
    return found


def check_values(owner: Callable[..., Any], values: Mapping[str, Any], group: str) -> None:
    """Raise UserError for a value that its parameter's type does not have, or that is outside the type's range.

    Args:
        owner: the class or function whose signature or fields declare them.
        values: by the parameters' names; others are not looked at.
        group: what the options' names begin with on the command line: data, model.optim; may be empty.
    """
    for name, hint in parameters(owner, ranges=True).items():
        if name in values:
            check_value(f"{group}.{name}".lstrip("."), hint, values[name], reprlib.repr(values[name]))


def check_value(option: str, hint: Any, value: Any, given: str) -> None:
    """Raise UserError for a value, given in these words, that an option's type does not have, or its range."""
    if not _has(hint, value):
        near = near_misses(value, literals(hint)) if isinstance(value, str) else ""
        raise UserError(f"{option}={given} is not allowed{near}\nallowed: {allowed(hint)}")
    for span in _ranges(hint):
        if value is not None and value not in span:
            raise UserError(f"{option}={value} is out of range; allowed: {span.words}")


def check_names(owner: Callable[..., Any], names: Iterable[str], group: str) -> None:
    """Raise UserError for a name that is none of an owner's parameters."""
    known = parameters(owner)
    for name in names:
        if name not in known:
            near = near_misses(str(name), known)
            raise UserError(f"unknown option {f'{group}.{name}'!r}{near}\nallowed: {', '.join(known)}")


def _ranges(hint: Any) -> Iterator[Range]:
    yield from (extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range))
    for part in get_args(hint):
        yield from _ranges(part)


def _has(hint: Any, value: Any) -> bool:
    """Whether a value is one of a type's: true is no number, and a number no text."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _has(parts[0], value)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin in (Union, UnionType):
        return any(_has(part, value) for part in parts)
    if origin in (list, tuple):
        items = isinstance(value, list | tuple) and all(_has(parts[0], item) for item in value)
        return items and (origin is list or len(value) == len(parts))
    if hint is Any or not isinstance(hint, type):
        return True
    kind = KINDS.get(hint, (hint, Mapping) if is_dataclass(hint) else hint)
    return isinstance(value, kind) and (hint in (bool, object) or not isinstance(value, bool))


def plain(value: Any) -> Any:
    """Return a value with Python's own numbers in place of other libraries', however deep they lie."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


# What is taken for a type, and how it is called.
KINDS: dict[Any, Any] = {int: Integral, float: Real, str: (str, os.PathLike)}
WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def literals(hint: Any) -> list[str]:
    """Return the names that a type consists of."""
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    return [value for part in get_args(hint) for value in literals(part)]


def allowed(hint: Any) -> str:
    """Return what a type takes, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is None:
        return "see --help"
    if origin is Annotated:
        return allowed(parts[0])
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin in (Union, UnionType):
        return ", ".join(dict.fromkeys(word for part in parts for word in allowed(part).split(", ")))
    if origin in (list, tuple):
        return f"a list like [x, y] of {allowed(parts[0])}"
    name = WORDS.get(hint, getattr(hint, "__name__", str(hint)))
    return f"{name}, or a mapping of its options" if is_dataclass(hint) else name
