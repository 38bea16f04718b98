"""Ranges are what their words say, and are found wherever a constructor declares them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from reslightning.errors import UserError
from reslightning.ranges import Range, check_names, check_values, parameters, plain


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
        check_values(owner, values, "data")


def test_what_may_be_none_and_what_has_no_range_are_allowed():
    check_values(Derived, {"rate": None, "count": 1, "name": "x", "else": -1}, "data")


Name = Literal["step", "cosine"]


def function(
    *,
    count: int = 1,
    rate: float = 0.1,
    on: bool = False,
    path: str | None = None,
    name: Name = "step",
    pair: tuple[float, float] = (0.1, 0.2),
    many: list[int] | None = None,
    fields: Fields | None = None,
    anything: Any = None,
) -> None:
    """Stand for whatever declares types."""


@pytest.mark.parametrize(
    ("name", "inside", "outside", "allowed"),
    [
        ("count", [3, np.int64(3)], [True, 3.0, "3", None, [3]], "a whole number"),
        ("rate", [3, 0.5, np.float32(0.5)], [False, "0.5", None, 1j], "a number"),
        ("on", [True], [1, "true", None], "true or false"),
        ("path", ["x", Path("x"), None], [3, b"x"], "text, null"),
        ("name", ["step"], ["nope", None, 0, np.array(["step"])], "step, cosine"),
        (
            "pair",
            [(0.1, 1), [0.1, 0.2]],
            [(0.1,), (0.1, "x"), 0.1, np.array([1, 2])],
            r"a list like \[x, y\] of a number",
        ),
        ("many", [[1, 2], (), None], [[1.5], 1, "12"], r"a list like \[x, y\] of a whole number, null"),
        ("fields", [Fields(), {"lr": 3}, None], ["lr", 3], "Fields, or a mapping of its options, null"),
        ("anything", [object(), 3], [], ""),
    ],
)
def test_a_value_has_its_parameters_type(name, inside, outside, allowed):
    for value in inside:
        check_values(function, {name: value}, "")
    for value in outside:
        with pytest.raises(UserError, match=f"^{name}=.* is not allowed\nallowed: {allowed}$"):
            check_values(function, {name: value}, "")


def test_a_near_miss_is_named():
    with pytest.raises(UserError, match=r"^data.name='cosin' is not allowed; did you mean 'cosine'\?\n"):
        check_values(function, {"name": "cosin"}, "data")
    with pytest.raises(
        UserError, match=r"^unknown option 'data.cuont'; did you mean 'count'\?\nallowed: rate, name, count"
    ):
        check_names(Derived, ["name", "cuont"], "data")
    check_names(Derived, ["name", "count"], "data")


def test_numbers_become_python_s_own():
    found = plain({"a": np.float64(0.5), "b": (np.int64(2), True, "x", None), "c": {"d": [np.float32(0.5)]}})
    assert found == {"a": 0.5, "b": (2, True, "x", None), "c": {"d": [0.5]}}
    assert [type(value) for value in (found["a"], found["b"][0], found["b"][1], found["c"]["d"][0])] == [
        float,
        int,
        bool,
        float,
    ]


def test_parameters_have_bare_types_unless_ranges_are_asked_for():
    assert parameters(Derived) == {"rate": float | None, "name": str, "count": int}
    assert parameters(Fields, ranges=True) == {"lr": Fields.__init__.__annotations__["lr"]}
