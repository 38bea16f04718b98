"""Networks from weights alone: what they were trained to see, as far as it is known, and which they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslightning.data.folder import USUAL
from reslightning.data.labels import imagenet_classes
from reslightning.errors import UserError
from reslightning.models.architectures import ARCHITECTURES, FAMILIES, Norm, Shortcut, Version, get_architecture
from reslightning.models.borrowed import Borrowed
from reslightning.models.foreign import read_weights
from reslightning.models.resnet import build_model
from reslightning.models.weights import HEAD, read_source, said_network, torchvision_weights
from reslightning.run.record import run_of
from reslightning.train.classifier import ImageClassifier
from reslightning.train.evaluator import MEAN, STD

IMAGENET = 1000  # classes


def from_weights(
    source: str,
    *,
    arch: str | None = None,
    shortcut: Shortcut | None = None,
    version: Version | None = None,
    norm: Norm | None = None,
    say: Callable[[str], object] = print,
) -> ImageClassifier:
    """Return the network of weights as an evaluation would use it, in evaluation mode, with what ``from_run`` says.

    Args:
        source: as ``load_weights`` takes it: a checkpoint says of which network it is, ``torchvision:ARCH.NAME`` too.
        arch: the network; None is the one that the weights say, or else the only one that they fit.
        shortcut: the network's; None is what the weights say, or its own default.
        version: the same.
        norm: the same.
        say: takes a line about what is taken for granted.

    Raises:
        UserError: the weights cannot be read, or fit no network or several.
    """
    if source.startswith("torchvision:"):
        return _torchvision(source, arch, shortcut, version, norm)
    content, file, key = read_source(source, arch or "")
    if (said := said_network(content)) is not None:
        asked = {"arch": arch, "shortcut": shortcut, "version": version, "norm": norm}
        given = {**said, **{name: value for name, value in asked.items() if value is not None}}
        content = {**content, "hyper_parameters": given}
        return ImageClassifier.restored(source, content, run_of(Path(file).expanduser().absolute()) or Path(file))
    state = read_weights(content, file, key).state
    classes = _classes(state)
    arch = arch or fitting(state, source)
    model = ImageClassifier(arch, num_classes=classes, shortcut=shortcut, version=version, norm=norm, weights=source)
    facts, lines = usual(arch, classes)
    say(f"{source} says nothing of its network: taken for {arch}; {lines}")
    return model.having(facts)


def fitting(state: Mapping[str, Tensor], source: str) -> str:
    """Return the network whose weights, all of them, have these names and shapes.

    Raises:
        UserError: none has, or but for its final layer, or several have: a plain network's are those of a residual one
            without projections.
    """
    shapes = _shapes(state)
    blocks = 1 + max((int(number[1]) for name in state if (number := re.match(r"layer1\.(\d+)\.", name))), default=-1)
    deep = {f"{name}{family.step * blocks + 2}": None for name, family in FAMILIES.items() if blocks > 0}
    known = {name: there for name in ARCHITECTURES | deep if (there := _shapes_of(name, blocks, _classes(state)))}
    found = [name for name, there in known.items() if there == shapes]
    if len(found) == 1:
        return found[0]
    body = [name for name, there in known.items() if _without_head(there) == shapes]
    if body:
        raise UserError(
            f"the weights in {source} are those of {' or '.join(body)} without its final layer, and so know no "
            f"classes\nTo train one: reslightning fit --model.arch {body[0]} --model.weights {source} --model.new_head "
            f"true. For vectors of images: reslightning.build_model({body[0]!r}, weights={source!r}, features=True)."
        )
    if not found:
        raise UserError(
            f"the weights in {source} are of no network that is known, each with its own shortcut and version\nGive "
            "--model.arch, with --model.shortcut and --model.version where they are others: then what differs is said."
        )
    raise UserError(
        f"the weights in {source} fit {' and '.join(found)}, and do not say which they are of\nGive --model.arch."
    )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _shapes_of(arch: str, blocks: int, classes: int) -> dict[str, torch.Size]:
    """Return the shapes of a network's weights; none, soon, for one of other depth."""
    network = get_architecture(arch)
    if not isinstance(network, Borrowed) and network.depths[0] != blocks:
        return {}
    with torch.device("meta"):
        return _shapes(build_model(arch, num_classes=classes).state_dict())


def _without_head(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size] | None:
    """Return shapes without those of the final layer; None where there is none of the usual name."""
    return {name: shape for name, shape in shapes.items() if name not in HEAD} if HEAD[0] in shapes else None


def _classes(state: Mapping[str, Tensor]) -> int:
    """Return the outputs of the final layer, whose weights come last; the usual number where there is none."""
    heads = [value for name, value in state.items() if name.endswith(".weight") and value.ndim == 2]
    return len(heads[-1]) if heads else IMAGENET


def usual(arch: str, classes: int) -> tuple[dict[str, Any], str]:
    """Return what a network of an unknown training is taken to have seen, and that in words."""
    network = get_architecture(arch)
    size = network.image_size
    large = network.stem != "cifar"
    facts: dict[str, Any] = {"mean": MEAN, "std": STD, "image_size": size, "interpolation": "bilinear"}
    facts |= USUAL if large else {"eval_resize": None, "eval_size": size, "interpolation": None}
    facts["class_names"] = list(imagenet_classes().values()) if classes == IMAGENET else list(map(str, range(classes)))
    names = "ImageNet's, in torchvision's order" if classes == IMAGENET else f"0 to {classes - 1}"
    return facts, f"classes {names}; normalised by ImageNet's mean and standard deviation"


def _torchvision(
    source: str, arch: str | None, shortcut: Shortcut | None, version: Version | None, norm: Norm | None
) -> ImageClassifier:
    entry = torchvision_weights(source, arch)
    network = type(entry).__name__.removesuffix("_Weights").lower()
    model = ImageClassifier(
        network,
        num_classes=IMAGENET,
        shortcut=shortcut,
        version=version,
        norm=norm,
        weights=f"torchvision:{entry.name}",
    )
    how = entry.transforms()
    return model.having(
        {
            "class_names": list(imagenet_classes().values()),
            "mean": how.mean,
            "std": how.std,
            "image_size": how.crop_size[0],
            "eval_resize": how.resize_size[0],
            "eval_size": how.crop_size[0],
            "interpolation": how.interpolation.value,
        }
    )
