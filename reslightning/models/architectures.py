"""The table of architectures (arXiv:1512.03385, Table 1, Sec. 4.2; arXiv:1603.05027).

Answers without importing torch: what a network consists of, and what it costs, follows from its
row in the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias, get_args

from reslightning.errors import UserError, near_misses
from reslightning.models.borrowed import BORROWED, Borrowed

# Where a shortcut option has a 1x1 convolution, which has parameters, and where not (Sec. 3.3 and 4.1).
SHORTCUTS = {"A": "nowhere", "B": "where the shape changes", "C": "everywhere"}
Shortcut: TypeAlias = Literal[tuple(SHORTCUTS)]  # type: ignore[valid-type]  # what the parser allows
Version = Literal["v1", "v1.5", "v2"]
Norm = Literal["batch", "none"]


def projects(shortcut: Shortcut | None, *, changes: bool) -> bool:
    """Whether a block's shortcut is a 1x1 convolution, where its shape changes or not; None is a plain network."""
    return shortcut is not None and SHORTCUTS[shortcut] in ("everywhere", "where the shape changes" if changes else "")


@dataclass(frozen=True)
class Architecture:
    """One network: what the table fixes, and the defaults of its options.

    Attributes:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1; Fig. 5).
        depths: residual blocks per stage.
        widths: channels of the 3x3 convolutions per stage.
        stem: "imagenet" (7x7, stride 2, then max pooling) or "cifar" (3x3).
        num_classes: outputs of the final layer unless told otherwise.
        image_size: height and width in pixels that multiply-adds are counted at.
        shortcut: default shortcut option (Sec. 3.3, 4.1); None for a plain network.
        version: default order and stride placement within a block.
        norm: batch normalisation, or none.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: Literal["imagenet", "cifar"]
    num_classes: int
    image_size: int
    shortcut: Shortcut | None
    version: Version
    norm: Norm = "batch"

    @property
    def fixup(self) -> bool:
        """Whether Fixup (arXiv:1901.09321) takes the place of normalisation: a plain network has no branch to scale."""
        return self.norm == "none" and self.shortcut is not None

    def biases(self, channels: int) -> int:
        """Return how many biases stand where so many channels would be normalised: one in Fixup, else one each."""
        return min(channels, 1) if self.fixup else channels

    @property
    def expansion(self) -> int:
        """Output channels of a block over the channels of its 3x3 convolution."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def stride(self) -> int:
        """Pixels of an image for one place of the last map, in each direction."""
        return 2 ** (len(self.depths) - 1) * (4 if self.stem == "imagenet" else 1)

    @property
    def layers(self) -> int:
        """Weighted layers on the main path, as the paper counts depth."""
        return 2 + sum(self.depths) * (3 if self.block == "bottleneck" else 2)


def _imagenet(block: Literal["basic", "bottleneck"], *depths: int) -> Architecture:
    widths = (64, 128, 256, 512)
    return Architecture(block, depths, widths, "imagenet", 1000, 224, "B", "v1.5")


def _cifar(n: int) -> Architecture:  # 6n + 2 layers
    return Architecture("basic", (n, n, n), (16, 32, 64), "cifar", 10, 32, "A", "v1")


def _pre_activation(n: int) -> Architecture:  # 9n + 2 layers
    return Architecture("bottleneck", (n, n, n), (16, 32, 64), "cifar", 10, 32, "B", "v2")


def _plain(network: Architecture) -> Architecture:
    return replace(network, shortcut=None)


def _cifar_stem(network: Architecture) -> Architecture:
    return replace(network, stem="cifar", num_classes=10, image_size=32)


_IMAGENET = {
    "resnet18": _imagenet("basic", 2, 2, 2, 2),
    "resnet34": _imagenet("basic", 3, 4, 6, 3),
    "resnet50": _imagenet("bottleneck", 3, 4, 6, 3),
    "resnet101": _imagenet("bottleneck", 3, 4, 23, 3),
    "resnet152": _imagenet("bottleneck", 3, 8, 36, 3),
}


DEEPEST = 20_000  # layers: twice as many as any network that was trained


class Family(NamedTuple):
    """Networks of any depth: NAME followed by its layers, which are ``step`` for each n, and 2."""

    step: int
    make: Callable[[int], Architecture]
    listed: tuple[int, ...]  # every n that has a row in the table


FAMILIES = {
    "resnet": Family(6, _cifar, (3, 5, 7, 9, 18, 200)),
    "plain": Family(6, lambda n: _plain(_cifar(n)), (3, 5, 7, 9, 18)),
}
Network: TypeAlias = Architecture | Borrowed
ARCHITECTURES: dict[str, Network] = {
    **_IMAGENET,
    "plain18": _plain(_IMAGENET["resnet18"]),
    "plain34": _plain(_IMAGENET["resnet34"]),
    **{f"{name}{step * n + 2}": make(n) for name, (step, make, listed) in FAMILIES.items() for n in listed},
    **{f"resnet{9 * n + 2}": _pre_activation(n) for n in (18, 111)},
    **{f"{name}_cifar": _cifar_stem(_IMAGENET[name]) for name in ("resnet18", "resnet34", "resnet50")},
    **BORROWED,
}


def list_architectures() -> list[str]:
    """Return the names in the table; resnetD and plainD of other depths D = 6n + 2 exist too.

    Those of VGG and GoogLeNet are torchvision's, and are evaluated alone.
    """
    return list(ARCHITECTURES)


def get_architecture(name: str) -> Network:
    """Return the architecture called ``name``.

    Raises:
        UserError: the name is unknown; the message has the nearest valid ones.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    match = re.fullmatch(rf"({'|'.join(FAMILIES)})([1-9]\d{{0,99}})", name, re.ASCII)
    if match is None:
        raise UserError(
            f"unknown architecture {name!r}{near_misses(name, ARCHITECTURES)}\n"
            f"allowed: {', '.join(known for known in ARCHITECTURES if known not in BORROWED)}, and {_any_depth()}; "
            f"to be evaluated alone: {', '.join(BORROWED)}"
        )
    family, depth = match[1], int(match[2])
    step, make, _ = FAMILIES[family]
    n, remainder = divmod(depth - 2, step)
    if n >= 1 and remainder == 0 and depth <= DEEPEST:
        return make(n)
    n = min(n, DEEPEST // step - 2)
    valid = {int(known[len(family) :]) for known in ARCHITECTURES if re.fullmatch(family + r"\d+", known)}
    valid |= {step * k + 2 for k in range(max(n - 1, 1), max(n, 0) + 3)}
    below = [d for d in sorted(valid) if d < depth][-1:]
    above = [d for d in sorted(valid) if d > depth][:1]
    nearest = " and ".join(f"{family}{d}" for d in below + above)
    raise UserError(
        f"unknown architecture {name!r}: no network has {depth} layers; the nearest are {nearest}\n"
        f"(CIFAR networks have {step}n + 2 layers, at most {DEEPEST:,}; `reslightning models` lists the table)"
    )


def _any_depth() -> str:
    """Return the families in words: resnetD or plainD of any depth D = 6n + 2."""
    steps = dict.fromkeys(family.step for family in FAMILIES.values())
    return ", ".join(
        f"{' or '.join(f'{name}D' for name, family in FAMILIES.items() if family.step == step)} "
        f"of any depth D = {step}n + 2"
        for step in steps
    )


def check_trainable(name: str) -> None:
    """Raise UserError for a network that is only evaluated here, or that there is not."""
    if isinstance(get_architecture(name), Borrowed):
        raise UserError(
            f"{name} is torchvision's, and is not trained here; allowed: validate, test, predict, models and "
            "build_model\nTo train, give a resnet or a plain network as --model.arch: `reslightning models` lists them."
        )


def check_size(name: str, size: int) -> None:
    """Raise UserError where a network does not take images so small, ``size`` pixels a side."""
    network = get_architecture(name)
    if isinstance(network, Borrowed) and size < network.least:
        raise UserError(f"{name} takes images of {network.least} pixels or more a side; given: {size}")


def resolve_options(name: str, shortcut: str | None, version: str | None, norm: str | None = None) -> Network:
    """Return the architecture called ``name`` with these options, None meaning its own default.

    Raises:
        UserError: an option is unknown, or was asked of a network that has no such choice.
    """
    network = get_architecture(name)
    shortcuts, versions, norms = get_args(Shortcut), get_args(Version), get_args(Norm)
    if shortcut not in (None, *shortcuts):
        raise UserError(f"unknown shortcut {shortcut!r}; allowed: {', '.join(shortcuts)} (arXiv:1512.03385, Sec. 4.1)")
    if version not in (None, *versions):
        raise UserError(f"unknown version {version!r}; allowed: {', '.join(versions)}")
    if norm not in (None, *norms):
        raise UserError(f"unknown norm {norm!r}; allowed: {', '.join(norms)}")
    if network.shortcut is None and shortcut is not None:
        raise UserError(f"{name} has no shortcuts: leave out shortcut {shortcut!r}, or use a resnet")
    if isinstance(network, Borrowed):
        if version is not None:
            raise UserError(f"{name} has no versions: leave out version {version!r}, or use a resnet")
        if norm is not None:
            raise UserError(f"{name} is as torchvision has it: leave out norm {norm!r}, or use a resnet")
        return network
    chosen = {"shortcut": shortcut, "version": version, "norm": norm}
    return replace(network, **{option: value for option, value in chosen.items() if value})  # type: ignore[arg-type]


def canonical(name: str, shortcut: str | None, version: str | None, norm: str | None = None) -> Network:
    """Return what ``resolve_options`` does, equal for equal networks: v1.5 moves a stride within the bottleneck alone.

    Raises:
        UserError: as there.
    """
    network = resolve_options(name, shortcut, version, norm)
    if isinstance(network, Architecture) and (network.block, network.version) == ("basic", "v1.5"):
        return replace(network, version="v1")
    return network


class Cost(NamedTuple):
    """What a network costs: parameters, and multiply-adds for one image."""

    parameters: int
    multiply_adds: int


def cost(
    name: str,
    *,
    num_classes: int | None = None,
    shortcut: str | None = None,
    version: str | None = None,
    norm: str | None = None,
    image_size: int | None = None,
) -> Cost:
    """Count parameters, and the multiply-adds of convolutions and final layer, as the paper does.

    Args:
        name: an architecture's name.
        num_classes: outputs of the final layer; None is the architecture's own.
        shortcut: A, B or C; None is the architecture's own.
        version: v1, v1.5 or v2; None is the architecture's own.
        norm: batch or none; None is batch.
        image_size: height and width of the input in pixels; None is the architecture's own.

    Raises:
        UserError: an unknown name or option, or another size of a network of torchvision's.
    """
    network = resolve_options(name, shortcut, version, norm)
    classes, size = num_classes or network.num_classes, image_size or network.image_size
    if isinstance(network, Architecture):
        features = network.widths[-1] * network.expansion
        parameters, multiply_adds = _body(network, size)
    elif size == network.image_size:
        features, parameters, multiply_adds = network.features, network.parameters, network.multiply_adds
    else:
        raise UserError(f"{name} is counted at {network.image_size} pixels alone; given: image_size={size}")
    return Cost(parameters + features * classes + classes, multiply_adds + features * classes)


def _body(architecture: Architecture, size: int) -> Cost:
    """Count what lies before the final layer."""
    features = architecture.widths[-1] * architecture.expansion
    parameters = _normalization(architecture, features) if architecture.version == "v2" else 0
    multiply_adds = 0
    for conv in _convolutions(architecture, size):
        weights = conv.inputs * conv.outputs * conv.kernel**2
        parameters += weights + _normalization(architecture, conv.normalized)
        parameters += conv.scalars if architecture.fixup else 0
        multiply_adds += weights * conv.size**2
    return Cost(parameters, multiply_adds)


def _normalization(architecture: Architecture, channels: int) -> int:
    """Count scales and biases of channels' batch normalisation, or the biases in its place."""
    return 2 * channels if architecture.norm == "batch" else architecture.biases(channels)


class _Convolution(NamedTuple):
    inputs: int
    outputs: int
    kernel: int
    size: int  # height and width of its output
    normalized: int  # channels of the batch normalisation that belongs to it
    scalars: int = 0  # of Fixup: one added to its input, and behind a branch's last one that it is multiplied by


def _convolutions(architecture: Architecture, size: int) -> Iterator[_Convolution]:
    pre, normalized = architecture.version == "v2", architecture.norm == "batch"

    def convolution(inputs: int, outputs: int, kernel: int, size: int, scalars: int = 1) -> _Convolution:
        return _Convolution(inputs, outputs, kernel, size, inputs if pre else outputs, scalars)

    channels = architecture.widths[0]
    if architecture.stem == "imagenet":
        size = (size + 1) // 2
        yield _Convolution(3, channels, 7, size, 0 if pre else channels)
        size = (size + 1) // 2
    else:
        yield _Convolution(3, channels, 3, size, 0 if pre else channels)
    for stage, (depth, width) in enumerate(zip(architecture.depths, architecture.widths, strict=True)):
        outputs = width * architecture.expansion
        for block in range(depth):
            before = size
            strided = stage > 0 and block == 0
            size = (size + 1) // 2 if strided else size
            if architecture.block == "basic":
                yield convolution(channels, width, 3, size)
                yield convolution(width, width, 3, size, 2)
            else:
                yield convolution(channels, width, 1, size if architecture.version == "v1" else before)
                yield convolution(width, width, 3, size)
                yield convolution(width, outputs, 1, size, 2)
            if projects(architecture.shortcut, changes=strided or channels != outputs):
                yield _Convolution(channels, outputs, 1, size, outputs if normalized and not pre else 0, 1)
            channels = outputs
