"""A study: a claim, runs of a grid at several scales, and what decides it, from one YAML file; without torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml

from reslightning.errors import UserError, near_misses
from reslightning.run.record import RunRecord
from reslightning.run.summary import error_percent

Scale = Literal["tiny", "small", "full"]
Verdict = Literal["supported", "not supported", "not decided"]
LEVEL = 0.95
SEED = "seed_everything"


@dataclass(frozen=True)
class Question:
    """What decides a part of a claim: the difference of two groups' mean errors, against a margin in points.

    Attributes:
        that: the part of the claim, in words.
        difference: two values of the grid's first option; the second's mean is subtracted from the first's.
        above: supported where the whole 95 % interval lies above it.
        below: supported where it lies below it.
    """

    that: str
    difference: tuple[str, str]
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Study:
    """A study's file.

    Attributes:
        claim: in a sentence.
        source: where it is from.
        metric: what is compared, an accuracy of the last epoch: train/top1, val/top1.
        grid: options and their values; a run of each combination. The first one's values are what is compared.
        scales: options of ``fit``, and the cost in words, at each scale.
        decide: the questions.
    """

    claim: str
    source: str
    metric: str
    grid: Mapping[str, Sequence[Any]]
    scales: Mapping[str, Mapping[str, str]]
    decide: Sequence[Question]

    @property
    def compared(self) -> str:
        """The option whose values are compared."""
        return next(iter(self.grid))


class Answer(NamedTuple):
    """What came out of a question: the difference in points, its 95 % interval, and the verdict.

    ``seeds`` are how many in each group would make an interval of this spread narrow enough, where it is not.
    """

    question: Question
    difference: float
    low: float
    high: float
    verdict: Verdict
    seeds: int | None = None


def read_study(path: Path) -> Study:
    """Read a study's file.

    Raises:
        UserError: it is no study; what is wrong is named with its line.
    """
    try:
        node = yaml.compose(path.read_text(), yaml.SafeLoader)
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise UserError(f"{where} is no study: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path} is no study: it holds no options")
    _check_keys(path, node, [field.name for field in fields(Study)])
    kinds: dict[str, tuple[type, ...]] = {"claim": (str,), "source": (str,), "metric": (str,), "decide": (list,)}
    for name, value in content.items():
        if not isinstance(value, kinds.get(name, (dict,))):
            raise UserError(f"{_at(path, node, name)}: {name} is {value!r}; see configs/studies for how it is written")
    parts = {key.value: value for key, value in node.value}
    _check_keys(path, parts["scales"], list(get_args(Scale)), every=False)
    for scale in parts["scales"].value:
        _check_keys(path, scale[1], ["fit", "cost"])
    for name, values in content["grid"].items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{_at(path, parts['grid'], name)}: {name} is {values!r}; allowed: a list of values")
    return Study(**{**content, "decide": [_question(path, one, content) for one in parts["decide"].value]})


def _question(path: Path, node: yaml.Node, content: Mapping[str, Any]) -> Question:
    _check_keys(path, node, [field.name for field in fields(Question)], every=False)
    given = yaml.SafeLoader("").construct_document(node) if isinstance(node, yaml.MappingNode) else {}
    where = f"{path}, line {node.start_mark.line + 1}"
    known = list(map(str, next(iter(content["grid"].values()))))
    pair = given.get("difference")
    if not isinstance(pair, list) or len(pair) != 2 or not {*map(str, pair)} <= {*known}:
        raise UserError(f"{where}: difference is {pair}; allowed: two of {', '.join(known)}")
    limits = [given.get(name) for name in ("above", "below")]
    if "that" not in given or sum(isinstance(one, int | float) for one in limits) != 1:
        raise UserError(f"{where}: a question has that, in words, and a number of points as above or as below")
    return Question(given["that"], (str(pair[0]), str(pair[1])), *limits)


def _check_keys(path: Path, node: yaml.Node, known: Sequence[str], *, every: bool = True) -> None:
    """Raise UserError for a key that a mapping may not have, with its line, or for one that it lacks."""
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}, line {node.start_mark.line + 1}: expected a mapping of {', '.join(known)}")
    for key, _ in node.value:
        if key.value not in known:
            near = near_misses(str(key.value), known)
            raise UserError(
                f"{path}, line {key.start_mark.line + 1}: unknown key {key.value!r}{near}\nallowed: {', '.join(known)}"
            )
    if lacking := [name for name in known if every and name not in {key.value for key, _ in node.value}]:
        raise UserError(f"{path}, line {node.start_mark.line + 1}: {lacking[0]} is missing")


def _at(path: Path, node: yaml.MappingNode, name: str) -> str:
    line = next(key.start_mark.line for key, _ in node.value if key.value == name)
    return f"{path}, line {line + 1}"


def errors(study: Study, runs: Sequence[RunRecord]) -> dict[str, list[float]]:
    """Return the last epoch's errors of finished runs, in percent, by the value of what is compared.

    A run that failed, with a loss that is not finite say, knows no better than chance.
    """
    found: dict[str, list[float]] = {str(value): [] for value in study.grid[study.compared]}
    for run in runs:
        value = str((run.summary.get("options") or {}).get(study.compared))
        last = run.last.get(study.metric, math.nan)
        if run.status == "failed" and value in found:
            found[value].append(error_percent(1 / (run.summary.get("classes") or math.inf)))
        elif run.status == "finished" and value in found and math.isfinite(last):
            found[value].append(error_percent(last))
    return found


def answer(question: Question, found: Mapping[str, Sequence[float]]) -> Answer | None:
    """Return what errors in percent say; None with fewer than two runs in a group.

    The interval is Welch's, for groups of different spread.
    """
    first, second = (found[name] for name in question.difference)
    if min(len(first), len(second)) < 2:
        return None
    difference = statistics.fmean(first) - statistics.fmean(second)
    half = _half(first, second)
    low, high = difference - half, difference + half
    margin = question.above if question.above is not None else question.below
    assert margin is not None
    over, under = low > margin, high < margin
    if question.below is not None:
        over, under = under, over
    if over or under:
        return Answer(question, difference, low, high, "supported" if over else "not supported")
    distance = abs(difference - margin)
    seeds = math.ceil(len(first) * (half / distance) ** 2) if distance else None
    return Answer(question, difference, low, high, "not decided", seeds)


def _half(first: Sequence[float], second: Sequence[float]) -> float:
    """Return half of the 95 % interval of a difference of means."""
    from scipy.stats import ttest_ind

    if not any(map(statistics.variance, (first, second))):
        return 0.0
    interval = ttest_ind(first, second, equal_var=False).confidence_interval(LEVEL)
    return float(interval.high - interval.low) / 2
