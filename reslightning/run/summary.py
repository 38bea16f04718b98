"""What summary.json says: every fact and its kind. All may be absent, since a run writes them as it learns them."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, TypedDict, cast, get_args, get_origin, get_type_hints

FORMAT = 1


class SegmentFacts(TypedDict, total=False):
    """One segment of a run, a stretch of training between a start and a stop."""

    started: str  # ISO 8601
    job: str | None  # Slurm's, ARRAY_TASK in an array
    host: str
    world_size: int
    from_step: int
    to_step: int
    seconds: float
    commit: str | None
    dirty: bool | None  # whether files differed from the commit
    code: str | None  # what the package's modules contained
    wandb: str  # how W&B recorded it: online or offline
    recorded: bool  # whether that is whole
    wandb_dir: str  # where W&B's files are, if not in the run's directory


class Content(TypedDict):
    """What a data set is, wherever it lies."""

    digest: str
    classes: list[str]  # in the order of their labels
    counts: dict[str, int]  # images by official split
    first: dict[str, str]  # file by split, where there are files


class Fingerprint(TypedDict, total=False):
    """What determines a result and is no option's value."""

    data: Content
    weights: str | None  # a digest of the tensors that training started from


class Summary(TypedDict, total=False):
    """The facts of a run. Accuracies are fractions in [0, 1]."""

    format: int
    run_id: str
    identity: str
    status: str  # running, preempted, finished, failed
    heartbeat: str  # ISO 8601: when this was written
    command: str
    # what is trained
    arch: str
    shortcut: str | None
    version: str | None
    norm: str | None  # null is batch normalisation
    parameters: int
    multiply_adds: int  # of one image
    dataset: str
    classes: int
    protocol: str
    exif_orientation: bool  # whether image files were turned upright; runs that lack it turned none
    mean: list[float]  # by which images in [0, 1] are normalised, a value a channel
    std: list[float]
    image_size: int  # pixels: what the network is given in evaluations
    eval_resize: int | None  # pixels that the shorter side is scaled to; None where images have their size
    eval_size: int  # pixels: the middle that is evaluated
    interpolation: str | None
    val_source: str  # held-out, test
    val_part: str  # train, val, test: what validation images are from
    majority: dict[str, float]  # share of the most frequent class in train and val
    n_samples: dict[str, int]  # train, val, test
    epochs: int  # to train
    diverged: bool  # whether it ended because its loss was not finite
    stopped: str | None  # why a callback ended training before them
    seed: int
    options: dict[str, Any]  # all that determine the result, dotted
    fingerprint: Fingerprint
    # how far it is
    epoch: int  # finished
    global_step: int
    metrics: dict[str, float]  # of the last epoch
    best: dict[str, float]
    # what it costs
    images_per_second: float | None
    data_wait: float | None  # share of training's time
    seconds: float
    minutes_lost: float
    device: str
    world_size: int
    # where it runs
    segments: list[SegmentFacts]
    versions: dict[str, str]
    environment: dict[str, Any]
    group: str | None  # W&B's
    tags: list[str]


def validated_on(source: str, part: str | None) -> str:
    """Return which images a run is validated on, in words, of its val_source and, where known, its val_part."""
    if source == "held-out":
        return "its own validation images" if part == "val" else "held-out images"
    return "its own validation images, which are its test images too" if part == "val" else "the test set"


KINDS = {owner: get_type_hints(owner) for owner in (Summary, SegmentFacts, Content, Fingerprint)}


def believe(facts: Mapping[str, Any]) -> tuple[Summary, list[str]]:
    """Return what is of its kind, or null, of the facts that a file or a server gave, and a line for each other one."""
    kinds = KINDS[Summary]
    wrong = {name for name, value in facts.items() if value is not None and not _is(value, kinds.get(name, Any))}
    lines = [f"its {name} is not what it should be: {str(facts[name])[:40]!r}" for name in facts if name in wrong]
    return cast(Summary, {name: value for name, value in facts.items() if name not in wrong}), lines


def _is(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if NoneType in get_args(kind):
        return value is None or any(_is(value, part) for part in get_args(kind) if part is not NoneType)
    if kind in KINDS:
        kinds = KINDS[kind]
        return isinstance(value, dict) and all(_is(value[name], kinds[name]) for name in kinds.keys() & value.keys())
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is(item, get_args(kind)[0]) for item in value)
    if kind in (int, float):
        return is_number(value)
    return isinstance(value, get_origin(kind) or kind)


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def error_percent(accuracy: float) -> float:
    """Return the error in percent, as the paper's tables have it, of an accuracy, a fraction as recorded."""
    return 100 * (1 - accuracy)
