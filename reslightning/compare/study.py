"""A study: a claim, runs of a grid or an analysis at several scales, and what decides it, from one YAML file."""

from __future__ import annotations

import math
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml

from reslightning.errors import UserError, near_misses
from reslightning.run.record import RunRecord
from reslightning.run.summary import error_percent
from reslightning.strict_yaml import Loader

ScaleName = Literal["tiny", "small", "full"]
Verdict = Literal["supported", "not supported", "not decided"]
LEVEL = 0.95
METRICS = ("train/top1", "val/top1", "val/top5")


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
class Scale:
    """What is run at one scale.

    Attributes:
        options: of ``fit``, or of ``analyze`` in a study without a grid.
        cost: in words.
        grid: options and their values; a run of each combination. The first one's values are what is compared.
        line: of the options in the file, from 1.
        lines: of each option of the grid.
    """

    options: str
    cost: str
    grid: Mapping[str, Sequence[Any]]
    line: int
    lines: Mapping[str, int]

    @property
    def compared(self) -> str:
        """The option whose values are compared."""
        return next(iter(self.grid))

    def line_of(self, mistake: str) -> int:
        """Return the file's line with the option that a message names first, else with the options of all runs."""
        words = re.findall(r"[\w.]+", re.split(r"[;\n]", mistake)[0])
        return next((line for name, line in self.lines.items() if name in words), self.line)


@dataclass(frozen=True)
class Study:
    """A study's file.

    Attributes:
        claim: in a sentence.
        source: where it is from.
        scales: what is run at each.
        metric: what is compared, an accuracy of the last epoch; None where nothing is trained.
        decide: the questions.
    """

    claim: str
    source: str
    scales: Mapping[str, Scale]
    metric: str | None
    decide: Sequence[Question]


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


class _Part:
    """A part of a study's file, which knows its line: its name's, where it has one."""

    def __init__(self, path: Path, node: yaml.Node, name: yaml.Node | None = None) -> None:
        self.path, self.node = path, node
        self.line = (name or node).start_mark.line + 1

    def error(self, text: str) -> UserError:
        return UserError(f"{self.path}, line {self.line}: {text}")

    @property
    def value(self) -> Any:
        return Loader("").construct_document(self.node)

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.error(f"{self.value!r} is no text")
        return self.value

    def items(self) -> list[_Part]:
        if not isinstance(self.node, yaml.SequenceNode) or not self.node.value:
            raise self.error(f"{self.value!r}; allowed: a list, - in front of each")
        return [_Part(self.path, node) for node in self.node.value]

    def parts(self, required: Sequence[str] = (), optional: Sequence[str] | None = ()) -> dict[str, _Part]:
        """Return a mapping's parts by name. None as optional allows any name."""
        known = [*required, *(optional or ())]
        if not isinstance(self.node, yaml.MappingNode) or not self.node.value:
            raise self.error(f"{self.value!r}; expected a mapping" + (f" of {', '.join(known)}" if known else ""))
        for key, _ in self.node.value:
            if optional is not None and key.value not in known:
                near = near_misses(str(key.value), known)
                raise _Part(self.path, key).error(f"unknown key {key.value!r}{near}\nallowed: {', '.join(known)}")
        found = {str(key.value): _Part(self.path, value, key) for key, value in self.node.value}
        if lacking := [name for name in required if name not in found]:
            raise self.error(f"{lacking[0]} is missing")
        return found


def read_study(path: Path) -> Study:
    """Read a study's file.

    Raises:
        UserError: it is no study; what is wrong is named with its line.
    """
    try:
        loader = Loader(path.read_text())
        node = loader.get_single_node()
        if node:
            loader.construct_document(node)
    except (OSError, ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise UserError(f"{where} is no study: {getattr(error, 'problem', None) or error}") from error
    if node is None:
        raise UserError(f"{path} is no study: it is empty")
    trained, always = ("metric", "grid", "decide"), ("claim", "source", "scales")
    parts = _Part(path, node).parts(always, trained)
    trains = any(name in parts for name in trained)
    parts = _Part(path, node).parts((*always, *trained) if trains else always, trained)
    grid = parts["grid"].parts(optional=None) if trains else {}
    scales = {
        name: _scale(part, grid, "fit" if trains else "analyze")
        for name, part in parts["scales"].parts(optional=get_args(ScaleName)).items()
    }
    return Study(
        parts["claim"].text(),
        parts["source"].text(),
        scales,
        _metric(parts["metric"]) if trains else None,
        [_question(part, scales.values()) for part in parts["decide"].items()] if trains else [],
    )


def _metric(part: _Part) -> str:
    if part.value not in METRICS:
        near = near_misses(str(part.value), METRICS)
        raise part.error(f"metric is {part.value!r}{near}\nallowed: {', '.join(METRICS)}")
    return str(part.value)


def _scale(part: _Part, grid: Mapping[str, _Part], command: str) -> Scale:
    parts = part.parts((command, "cost"), ("grid",) if grid else ())
    own = parts["grid"].parts(optional=None) if "grid" in parts else {}
    if other := [name for name in own if name not in grid]:
        raise parts["grid"].error(f"{other[0]} is not in the study's own grid; allowed: {', '.join(grid)}")
    options = parts[command].text()
    try:
        shlex.split(options)
    except ValueError as error:
        raise parts[command].error(f"{command} is no command line: {error}") from error
    grid = {**grid, **own}
    values = {name: [one.value for one in part.items()] for name, part in grid.items()}
    lines = {name: part.line for name, part in grid.items()}
    return Scale(options, parts["cost"].text(), values, parts[command].line, lines)


def _question(part: _Part, scales: Iterable[Scale]) -> Question:
    parts = part.parts(("that", "difference"), ("above", "below"))
    pair = [str(one.value) for one in parts["difference"].items()]
    for scale in scales:
        known = [str(value) for value in scale.grid[scale.compared]]
        if len(pair) != 2 or not {*pair} <= {*known}:
            raise parts["difference"].error(f"difference is {', '.join(pair)}; allowed: two of {', '.join(known)}")
    limits = {name: parts[name].value for name in ("above", "below") if name in parts}
    numbers = [one for one in limits.values() if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(limits) != 1 or len(numbers) != 1 or not math.isfinite(numbers[0]):
        raise part.error("a question has a number of points, as above or as below")
    return Question(parts["that"].text(), (pair[0], pair[1]), **limits)


def is_done(summary: Mapping[str, Any]) -> bool:
    """Return whether a run has an answer: it is finished, or its loss ceased to be finite."""
    return summary.get("status") == "finished" or is_lost(summary)


def is_lost(summary: Mapping[str, Any]) -> bool:
    """Return whether a run ended because its loss was not finite."""
    return summary.get("status") == "failed" and bool(summary.get("diverged"))


def errors(metric: str, runs: Mapping[str, Sequence[RunRecord]]) -> dict[str, list[float]]:
    """Return the last epoch's errors of finished runs, in percent, by the value of what is compared.

    A run whose loss ceased to be finite knows no better than chance.
    """
    return {value: [one for run in group if math.isfinite(one := _error(metric, run))] for value, group in runs.items()}


def _error(metric: str, run: RunRecord) -> float:
    if is_lost(run.summary):
        return error_percent(1 / (run.summary.get("classes") or math.inf))
    return error_percent(run.last.get(metric, math.nan)) if run.status == "finished" else math.nan


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
