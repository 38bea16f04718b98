"""What summary.json says: every fact and its kind."""

from __future__ import annotations

from typing import Any

FORMAT = 1

_OF_SEGMENTS = {"seconds", "world_size", "from_step", "to_step"}
# What a fact of summary.json is, where it is there.
_KINDS: dict[str, type] = {
    **dict.fromkeys(("run_id", "identity", "status", "heartbeat", "group", "device"), str),
    **dict.fromkeys(("arch", "shortcut", "version", "dataset", "protocol", "val_source"), str),
    **dict.fromkeys(("epoch", "epochs", "global_step", "seconds", "world_size", "minutes_lost"), float),
    **dict.fromkeys(("parameters", "multiply_adds", "images_per_second", "data_wait", "seed"), float),
    **dict.fromkeys(("metrics", "best", "options", "n_samples"), dict),
}


def fits(name: str, value: Any) -> bool:
    """Whether a fact of summary.json has the kind of value that it should have, or none."""
    if value is None:
        return True
    if name == "segments":
        return isinstance(value, list) and all(
            isinstance(part, dict) and all(is_number(part[key]) for key in _OF_SEGMENTS & part.keys()) for part in value
        )
    kind = _KINDS.get(name, object)
    return is_number(value) if kind is float else isinstance(value, kind)


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def error_percent(accuracy: float) -> float:
    """Return the error in percent, as the paper's tables have it, of an accuracy, a fraction as recorded."""
    return 100 * (1 - accuracy)
