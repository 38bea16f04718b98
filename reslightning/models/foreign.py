"""Other people's layouts of weights: functions from a file's content to torchvision's names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from reslightning.errors import UserError, near_misses

State = dict[str, Tensor]

# Where files keep weights beside other things, nested in each other perhaps; the first that is there counts.
NESTINGS = ("state_dict", "model", "net", "model_state_dict", "module")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.")
# What else names begin with: kinds of what is no part of the network.
BESIDE = {
    "loss": r"criterion",
    "count of averages": r"n_averaged",
}
# The same of a self-supervised training (arXiv:1911.05722, 2006.07733, 2011.10566, 2103.03230), whose network has a
# projection head in the place of the final layer, and may have a classifier beside it.
UNSUPERVISED = {
    "momentum network": r"encoder_k|momentum_\w+|\w+_momentum|teacher(_\w+)?|target_\w+",
    "queue": r"queue(_\w+)?",
    "projection head": r"(\w+_)?(head|neck|projector|predictor|prototypes)(_\w+)?|fc(?=\.\d)|bn",
    "classifier beside": r"(\w+_)?classifier(?!\.\d)",  # VGG's own is classifier.0 to 6
}
NAMES = (
    (r"linear\.", "fc."),  # akamaster's and kuangliu's
    (r"(layer\d+\.\d+)\.shortcut\.", r"\1.downsample."),
    # torchvision's network as a Sequential of its children, which lightly's examples make of it
    *((rf"{number}\.", f"{name}.") for number, name in ((0, "conv1"), (1, "bn1"))),
    *((rf"{number + 3}\.", f"layer{number}.") for number in range(1, 5)),
)


class Weights(NamedTuple):
    """What is of a network in a file's content, by torchvision's names, and what there is to say of the rest."""

    state: State
    lines: list[str]


def read_weights(content: Mapping[str, Any], source: str, key: str | None = None) -> Weights:
    """Return the weights in a file's content.

    Nestings, wrappers' prefixes and a prefix that all names have are removed, other people's names become
    torchvision's, and what is no part of the network is left out and counted.

    Args:
        content: the file's.
        source: its name, for messages.
        key: under which of several kinds of weights to look (model_ema, say); None takes those that were trained.

    Raises:
        UserError: there is nothing under the key, or none is given and several could be meant; or two names mean one.
    """
    nested, lines = _choose(content, source, key)
    given = {name: value for name, value in nested.items() if _is_weight(name, value)}
    state = _rename(given, _unwrapped, source)
    left, before = Counter[str](), State()
    while before.keys() != state.keys():  # what lies beside the network hides a prefix, and a prefix what lies beside
        before, state = state, _leave_out(_without_prefix(state), BESIDE | UNSUPERVISED, left)
    state = _rename(state, _ours, source)
    if left.keys() & UNSUPERVISED:
        state = _leave_out(state, {"projection head": "fc"}, left)
    if left:
        kinds = ", ".join(f"{kind} ({left[kind]})" for kind in BESIDE | UNSUPERVISED if left[kind])
        lines.append(f"{source}: names left out as no part of the network: {kinds}")
    return Weights(state, lines)


def _choose(content: Mapping[str, Any], source: str, key: str | None) -> tuple[Mapping[str, Any], list[str]]:
    inner = {str(name): _nested(value) for name, value in content.items() if isinstance(value, Mapping)}
    there = {name: value for name, value in inner.items() if _is_state(value)}
    if key is not None and key not in there:
        raise UserError(
            f"{source} has no weights under {key!r}{near_misses(key, there)}\nallowed: "
            f"{', '.join(f'{source}#{name}' for name in there) or f'{source} alone'}"
        )
    raw = [name for name in NESTINGS if name in there]
    if not raw and not _is_state(content):
        raw = [name for name in there if name not in AVERAGED] or list(there)
    if key is None and len(raw) > 1 and raw[0] not in NESTINGS:
        raise UserError(
            f"{source} holds several weights: {', '.join(raw)}\nSay which: {' or '.join(f'{source}#{n}' for n in raw)}"
        )
    chosen = key or next(iter(raw), None)
    others = [name for name in there if name != chosen]
    lines = []
    if chosen and others and {chosen, *others} & set(AVERAGED):
        lines.append(f"{source}: {chosen} is taken; there is also {', '.join(f'{source}#{name}' for name in others)}")
    return (there[chosen] if chosen else _nested(content)), lines


def _nested(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the innermost of what is nested under usual names."""
    for _ in NESTINGS:  # a file may hold itself
        content = next((content[key] for key in NESTINGS if isinstance(content.get(key), Mapping)), content)
    return content


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _is_state(content: Mapping[Any, Any]) -> bool:
    return any(_is_weight(name, value) and "." in name for name, value in content.items())


def _unwrapped(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _without_prefix(state: State) -> State:
    """Return the state without the first part of its names, if that is one for all, and none of a network's own."""
    first, *others = {name.partition(".")[0] if "." in name else "" for name in state} or {""}
    if others or re.fullmatch(r"|(conv|bn|layer|norm|fc|linear)\d*", first):
        return state
    return {name.partition(".")[2]: value for name, value in state.items()}


def _leave_out(state: State, kinds: Mapping[str, str], left: Counter[str]) -> State:
    """Return the state without names that begin with a kind's, and count those."""
    kept = {}
    for name, value in state.items():
        kind = next((kind for kind, begins in kinds.items() if re.match(rf"({begins})(\.|$)", name)), None)
        if kind is None:
            kept[name] = value
        else:
            left[kind] += 1
    return kept


def _rename(state: State, new: Callable[[str], str], source: str) -> State:
    found: State = {}
    for name, value in state.items():
        if found.setdefault(new(name), value) is not value:
            raise UserError(f"{source} has {new(name)} twice, once as {name}\nSave it with one of the two.")
    return found


def _ours(name: str) -> str:
    for theirs, ours in NAMES:
        name = re.sub(rf"^{theirs}", ours, name)
    return name
