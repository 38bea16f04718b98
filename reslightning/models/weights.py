"""Weights from torchvision, from runs and from other people's files; never by unpickling objects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslightning.errors import UserError, near_misses
from reslightning.models.architectures import ARCHITECTURES, Network, canonical, get_architecture
from reslightning.models.borrowed import Borrowed
from reslightning.models.checkpoint import PLAIN, SUFFIXES, read_checkpoint
from reslightning.models.foreign import read_weights
from reslightning.models.hub import download

SHOWN = 10  # names of a file that does not fit
HEAD = ("fc.weight", "fc.bias")
NO_HEAD = "They have no final layer: build_model(..., features=True) takes them so, for vectors of images."
NETWORK = {"arch", "num_classes", "shortcut", "version"}  # what a checkpoint of ours says of its network, always


def load_weights(
    model: nn.Module,
    source: str,
    arch: str,
    *,
    shortcut: str | None = None,
    version: str | None = None,
    norm: str | None = None,
    new_head: bool = False,
    say: Callable[[str], object] = print,
) -> str:
    """Load weights into ``model``, all of them or none, and return a digest of the tensors.

    Args:
        model: the network to fill.
        source: ``torchvision:NAME``, ``hf:USER/NAME`` or ``hf:USER/NAME/FILE`` on the Hugging Face Hub, a checkpoint or
            a state dict file, of others too (see ``read_weights``); ``FILE#KEY`` of a file of several weights.
        arch: the network's name, which ``torchvision:NAME`` is looked up for.
        shortcut: the network's; None is its own default.
        version: the same.
        norm: the same.
        new_head: leave the final layer as it is, whether the file has one or not.
        say: takes a line about what was left out of a file, and which of several weights were taken.

    Raises:
        UserError: the source cannot be read, says that it is of another network, or does not fit; every
            missing, unexpected and misshapen name is counted in the message, and the first of them are in it.
    """
    content, file, key = read_source(source, arch, norm)
    state, lines = read_weights(content, file, key)
    for line in lines:
        say(line)
    if isinstance(network := get_architecture(arch), Borrowed):
        state = {name: value for name, value in state.items() if not name.startswith(network.training_only)}
    found = _digest(state)
    expected = model.state_dict()
    # Files from before batch normalisation counted its batches lack the counters; nothing reads them.
    counters = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}
    state = {name: torch.zeros_like(value) for name, value in counters.items()} | state
    if new_head:
        state |= {name: expected[name] for name in HEAD if name in expected}
    check_fit(expected, state, source, arch)
    check_network(content, source, arch, shortcut, version, norm)
    model.load_state_dict(state)
    return found


def check_network(
    content: Mapping[str, Any],
    source: str,
    arch: str,
    shortcut: str | None,
    version: str | None,
    norm: str | None = None,
) -> None:
    """Raise UserError where a checkpoint says that it is of another network: shapes may be alike."""
    said = said_network(content)
    if source.startswith("torchvision:"):  # whose strides are v1.5's, and the names and shapes the same as of v1
        said = {"arch": arch, "shortcut": None, "version": None}
    if said is None:
        return
    there = _network(said["arch"], said["shortcut"], said["version"], said.get("norm"))  # of older versions without
    here = _network(arch, shortcut, version, norm)
    if there[1] != here[1]:
        raise UserError(
            f"the weights in {source} are of {there[0]}, and were asked to be those of {here[0]}\nGive --model.arch "
            f"{said['arch']}, and --model.shortcut and --model.version as they were: {there[1].shortcut}, "
            f"{there[1].version}."
        )


def said_network(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a checkpoint of ours says of its network; None of others, whatever names their options have."""
    said = content.get("hyper_parameters")
    return said if isinstance(said, Mapping) and said.keys() >= NETWORK else None


def _network(arch: str, shortcut: str | None, version: str | None, norm: str | None) -> tuple[str, Network]:
    """Return a network in words, and what it consists of."""
    network = canonical(arch, shortcut, version, norm)
    return f"{arch}, shortcut {network.shortcut or 'none'}, {network.version or 'no version'}", network


def _digest(state: Mapping[str, Tensor]) -> str:
    """Return sixteen hexadecimal digits that name tensors and their values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str, arch: str) -> None:
    """Raise UserError with the first names that are missing, unexpected or misshapen, and how many they are."""
    problems = [
        *(f"  missing     {name} {list(expected[name].shape)}" for name in expected if name not in state),
        *(f"  unexpected  {name} {list(state[name].shape)}" for name in state if name not in expected),
        *(
            f"  misshapen   {name}: the network has {list(expected[name].shape)}, the file {list(state[name].shape)}"
            for name in expected
            if name in state and state[name].shape != expected[name].shape
        ),
        *(
            f"  no floats:  {name}, but {str(value.dtype).removeprefix('torch.')}, quantised perhaps"
            for name, value in state.items()
            if name in expected and expected[name].is_floating_point() and not value.is_floating_point()
        ),
    ]
    if problems:
        rest = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"the weights in {source} do not fit {arch} ({len(problems)} names differ):\n"
            + _common(expected, state)
            + "\n".join(problems[:SHOWN])
            + rest
            + "\nChoose the architecture, shortcut, version, norm and number of classes they were trained with"
            + (", or fit with --model.new_head true to train a new final layer." if _new_head(arch, problems) else ".")
            + ("" if any(name in state for name in HEAD) or HEAD[0] not in expected else f"\n{NO_HEAD}")
        )


def _common(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Return a line with what all foreign names of a file have in front or behind, where the rest is the network's."""
    extra, first = {name for name in state if name not in expected}, next(iter(expected))
    for name in extra:
        before, found, behind = name.partition(first)
        if found and extra <= {f"{before}{known}{behind}" for known in expected}:
            place = f"{before!r} in front" if before else f"{behind!r} behind"
            return f"all these names of the file have {place}: save it with the names without\n"
    return ""


def _new_head(arch: str, problems: list[str]) -> bool:
    """Whether a new final layer would do, which is then trained."""
    of_head = all(problem.split()[1].rstrip(":") in HEAD for problem in problems)
    return of_head and not isinstance(get_architecture(arch), Borrowed)


def read_source(source: str, arch: str, norm: str | None = None) -> tuple[Mapping[str, Any], str, str | None]:
    """Return what a source of weights holds, its name, and the key in it if it names one; see ``load_weights``.

    Args:
        source: ``torchvision:NAME``, or a file or ``hf:USER/NAME``, with ``#KEY`` behind it perhaps.
        arch: the network that ``torchvision:NAME`` is looked up for.
        norm: the network's, for which torchvision may have none; None is batch.
    """
    if source.startswith("torchvision:") and norm == "none":
        raise UserError(
            f"{source} is of a network with batch normalisation, and norm none was asked for\nLeave out model.norm, "
            "or start without weights."
        )
    if source.startswith("torchvision:"):
        return _from_torchvision(source, arch), source, None
    hub, key = source.startswith("hf:"), None
    if "#" in source and (hub or not Path(source).expanduser().exists()):
        source, _, key = source.rpartition("#")
    path = download(source) if hub else Path(source).expanduser()
    if not path.is_file():
        raise UserError(
            f"no weights at {source}\nallowed: torchvision:NAME (torchvision:IMAGENET1K_V2, say), hf:USER/NAME, a run "
            f"directory, or a file ({', '.join(SUFFIXES)})"
        )
    return read_checkpoint(path, PLAIN), source, key


def _from_torchvision(source: str, arch: str) -> Mapping[str, Any]:
    weights = torchvision_weights(source, arch)
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise UserError(
            f"cannot download {source} for {arch}: {error}\nOn a machine with internet run "
            f"`reslightning fetch torchvision:{arch}.{weights.name} --to DIR`, then give the file it names "
            "as model.weights."
        ) from error


def torchvision_weights(source: str, arch: str | None = None) -> Any:
    """Return torchvision's entry for ``torchvision:[ARCH.]NAME``.

    Raises:
        UserError: torchvision has no such network or weights.
    """
    from torchvision.models import get_model_weights, list_models

    known = [name for name in ARCHITECTURES if name in list_models()]
    given_arch, _, name = source.removeprefix("torchvision:").rpartition(".")
    if name in known:
        given_arch, name = name, "DEFAULT"
    arch = given_arch or arch
    if arch not in known:
        meant = name if arch is None else arch
        raise UserError(
            f"torchvision has no weights for {meant!r}{near_misses(meant.lower(), known)}\nallowed: {', '.join(known)}"
        )
    # VGG's IMAGENET1K_FEATURES have no numbers in the final layers.
    entries = {entry.name: entry for entry in get_model_weights(arch) if entry.name.startswith("IMAGENET1K_V")}
    entries["DEFAULT"] = get_model_weights(arch).DEFAULT
    if name not in entries:
        raise UserError(
            f"torchvision has no weights {name!r} for {arch}{near_misses(name, entries)}\nallowed: {', '.join(entries)}"
        )
    return entries[name]
