"""Ranges are what their words say, and are found wherever a constructor declares them."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from reslightning.errors import UserError
from reslightning.ranges import Range, check_ranges, parameters


@pytest.mark.parametrize(
    ("words", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.999], [-1e-9, 1, float("nan")]),
        ("a fraction in (0, 1]", [1e-9, 1], [0, 1.001]),
        ("images, 1 or more", [1, 10**9], [0]),
        ("a positive number", [1e-9, 10**9], [0, -1, float("inf")]),
        ("two numbers in [0, 1)", [(0, 0.9)], [(0.9, 1), (-1, 0)]),
        ("positive numbers in ascending order", [[1, 1, 2]], [[2, 1], [0, 1], [], [1, float("inf")]]),
    ],
)
def test_a_range_is_what_its_words_say(words, inside, outside):
    assert all(value in Range(words) for value in inside)
    assert not any(value in Range(words) for value in outside)


def test_words_without_a_range_are_none():
    with pytest.raises(ValueError, match="says nothing"):
        Range("whatever fits")


class Base:
    def __init__(self, rate: Annotated[float | None, Range("(0, 1)")] = None, *, name: str = "") -> None:
        self.rate = rate


class Derived(Base):
    def __init__(self, count: Annotated[int, Range("1 or more")] = 1, **options: Any) -> None:
        super().__init__(**options)
        self.count = count


@dataclass
class Fields:
    lr: Annotated[float, Range("a positive number")] = 0.1


@pytest.mark.parametrize(
    ("owner", "values", "said"),
    [
        (Derived, {"count": 0}, "data.count=0 is out of range; allowed: 1 or more"),
        (Derived, {"rate": 1.0}, r"data.rate=1.0 is out of range; allowed: \(0, 1\)"),
        (Fields, {"lr": -1}, "data.lr=-1 is out of range; allowed: a positive number"),
    ],
)
def test_a_value_out_of_range(owner, values, said):
    with pytest.raises(UserError, match=said):
        check_ranges(owner, values, "data")


def test_none_and_what_has_no_range_are_allowed():
    check_ranges(Derived, {"rate": None, "count": 1, "name": "x", "else": -1}, "data")


def test_parameters_have_bare_types_unless_ranges_are_asked_for():
    assert parameters(Derived) == {"rate": float | None, "name": str, "count": int}
    assert parameters(Fields, ranges=True) == {"lr": Fields.__init__.__annotations__["lr"]}
