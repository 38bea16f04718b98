"""What every block makes of the loss's gradient, and how much of it came by the shortcut (arXiv:1512.03385, Sec. 3.2).

A block gives y = relu(z) with z = F(x) + s(x), so that, with Jacobians J_F and J_s of all images of a batch together,

    dL/dx = J_F^T dL/dz + J_s^T dL/dz,    dL/dz = dL/dy where z > 0, else 0.

With the identity as shortcut this is the formula dL/dx = dL/dz (dF/dx + I). It holds for dL/dz, in front of the
rectifier, and not for dL/dy: the rectifier stops the gradient where z <= 0, also that which the identity would hand on.
A pre-activation block (v2, arXiv:1603.05027) has no rectifier behind the sum: z = y, dL/dz of a block is dL/dx of the
next, and the identity hands it on unchanged through a whole stage (Eq. 5 there). Its projections, and the shortcut of
the network's first block, read relu(bn(x)): the formula holds, but their part comes through those. A plain block has a
residual part alone.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslightning.errors import UserError
from reslightning.models.blocks import Block, PreActivationBlock
from reslightning.models.shortcuts import ZeroPad
from reslightning.train.metrics import accumulator

DISTANCE = 0.01  # of a neighbouring input, as a fraction of the image's own norm
DEPTHS = 16  # at most, that the correlation at neighbouring inputs is taken at


class Gradients(NamedTuple):
    """The loss's gradients at one block, of a whole batch.

    Attributes:
        total: dL/dz, in front of the rectifier, [B, C_out, H', W'].
        given: dL/dx as the network's own backward pass found it, [B, C_in, H, W].
        shortcut: the part of dL/dx that came by the shortcut, J_s^T dL/dz; None in a plain block.
        residual: the part that came by the convolutions, J_F^T dL/dz.
        parameters: of the block's parameters, in their order.
    """

    total: Tensor
    given: Tensor
    shortcut: Tensor | None
    residual: Tensor
    parameters: list[Tensor]


class Flow(NamedTuple):
    """One block in numbers: Euclidean norms of gradients over all images, places and channels of a batch.

    Attributes:
        block: its name, layer1.0 say.
        shortcut: identity, padding (A: the identity, subsampled, between zeros), projection, activated (the identity
            behind the first activation) or none.
        dz: of dL/dz.
        dx: of dL/dx.
        shortcut_part: of what came by the shortcut; not a number in a plain block.
        residual_part: of what came by the convolutions.
        cosine: between both parts, in [-1, 1]; not a number where one of them is zero, or there is one alone.
        parameters: of the gradients of the block's parameters.
    """

    block: str
    shortcut: str
    dz: float
    dx: float
    shortcut_part: float
    residual_part: float
    cosine: float
    parameters: float


def blocks_of(network: nn.Module, name: str = "the network") -> dict[str, Block]:
    """Return a network's blocks by name, from the input on.

    Raises:
        UserError: it has none.
    """
    found = {key: module for key, module in network.named_modules() if isinstance(module, Block)}
    if not found:
        raise UserError(f"{name} has no blocks, which are what is measured\nGive a resnet or a plain one.")
    return found


def kind(block: Block) -> str:
    """Return what a block's shortcut is, see ``Flow``."""
    if block.plain:
        return "none"
    if isinstance(block.downsample, nn.Sequential):
        return "projection"
    if isinstance(block, PreActivationBlock) and block.activate_shortcut:
        return "activated"
    return "padding" if isinstance(block.downsample, ZeroPad) else "identity"


class Tape:
    """Keeps what a network's blocks are given and give in a forward pass, and their gradients in the backward pass.

    It changes nothing of either: ``with Tape(network) as tape: loss(network(images)).backward()``, and then
    ``tape.gradients()``. Until then it holds two maps and two gradients a block. A block that no gradient passes
    through, a frozen one say, is left out.
    """

    def __init__(self, network: nn.Module, name: str = "the network") -> None:
        self.blocks = blocks_of(network, name)
        self._maps: dict[str, tuple[Tensor, Tensor]] = {}
        self._found: dict[str, dict[str, Tensor]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, block in self.blocks.items():
            self._hooks.append(
                block.register_forward_hook(lambda _, given, out, name=name: self._keep(name, given[0], out))
            )
        return self

    def __exit__(self, *raised: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, name: str, x: Tensor, y: Tensor) -> None:
        if not x.requires_grad:
            return
        found = self._found[name] = {}
        self._maps[name] = x.detach(), y.detach()
        for key, value in (("dx", x), ("dy", y)):
            value.register_hook(lambda gradient, key=key: found.update({key: gradient}))

    def gradients(self) -> Iterator[tuple[str, Gradients]]:
        """Give each block's gradients by its name, from the input on, one at a time: they are large."""
        for name, found in self._found.items():
            x, y = self._maps[name]
            block = self.blocks[name]
            yield name, split(block, x, before_rectifier(block, y, found["dy"]), found["dx"])

    def flows(self, scale: float = 1.0) -> list[Flow]:
        """Return each block's numbers, norms multiplied by ``scale``, from the input on."""
        return [flow(name, kind(self.blocks[name]), gradients, scale) for name, gradients in self.gradients()]


def before_rectifier(block: Block, y: Tensor, gradient: Tensor) -> Tensor:
    """Return dL/dz of a block that gave y, from dL/dy."""
    return gradient * (y > 0) if block.rectified else gradient


def split(block: Block, x: Tensor, total: Tensor, given: Tensor) -> Gradients:
    """Return a block's gradients, of its branch and of its shortcut apart, by computing it once more.

    Args:
        block: in the mode that it was in.
        x: what it was given, [B, C_in, H, W].
        total: dL/dz, [B, C_out, H', W'].
        given: dL/dx, [B, C_in, H, W].
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad(), _statistics_kept(block):
        residual, shortcut = block.branches(x)
    inputs = [x, *(parameter for parameter in block.parameters() if parameter.requires_grad)]
    by_residual = _pulled_back(residual, inputs, total)
    if shortcut is None:
        return Gradients(total, given, None, by_residual[0], by_residual[1:])
    by_shortcut = _pulled_back(shortcut, inputs, total)
    parameters = [one + other for one, other in zip(by_residual[1:], by_shortcut[1:], strict=True)]
    return Gradients(total, given, by_shortcut[0], by_residual[0], parameters)


def _pulled_back(out: Tensor, inputs: Sequence[Tensor], gradient: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(out, inputs, gradient.to(out.dtype), retain_graph=True, materialize_grads=True))


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Let batch normalisation use a batch's statistics as in training, without adding them to its averages."""
    modules: list[Any] = list(block.modules())
    norms = [module for module in modules if module.training and getattr(module, "track_running_stats", False)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def flow(name: str, shortcut: str, gradients: Gradients, scale: float = 1.0) -> Flow:
    """Return a block's gradients in numbers, norms multiplied by ``scale``."""
    dz, dx, by_residual = (_norm([part]) for part in (gradients.total, gradients.given, gradients.residual))
    by_shortcut, cosine = math.nan, math.nan
    if gradients.shortcut is not None:
        by_shortcut = _norm([gradients.shortcut])
        if by_shortcut and by_residual:
            product = (_exact(gradients.shortcut) * _exact(gradients.residual)).sum().item()
            cosine = product / (by_shortcut * by_residual)
    dz, dx, by_shortcut, by_residual = (scale * one for one in (dz, dx, by_shortcut, by_residual))
    return Flow(name, shortcut, dz, dx, by_shortcut, by_residual, cosine, scale * _norm(gradients.parameters))


def cells(flow: Flow) -> list[str]:
    """Return a block's numbers as a CSV file has them, in the order of the fields; what is no number is empty."""
    return [value if isinstance(value, str) else "" if math.isnan(value) else repr(value) for value in flow]


def _exact(value: Tensor) -> Tensor:
    return value.to(accumulator(value.device))


def _norm(values: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(_exact(value).square().sum()) for value in values))


def measure(network: nn.Module, images: Tensor, labels: Tensor, name: str = "the network") -> list[Flow]:
    """Return every block's numbers for the mean cross-entropy of a batch, in training mode and float64.

    Args:
        network: which stays as it is.
        images: [B, 3, H, W], normalised.
        labels: [B].
        name: what the network is called where it has no blocks.

    Raises:
        UserError: it has none.
    """
    network = _exactly(network)
    with Tape(network, name) as tape:
        F.cross_entropy(network(images.double()), labels).backward()
    return tape.flows()


def shattering(network: nn.Module, images: Tensor, seed: int = 0) -> dict[int, float]:
    """Return how alike gradients are at neighbouring inputs, by depth: they shatter into noise (arXiv:1702.08591).

    Of the gradient of a random direction of a block's maps by the images, the correlation with that at images moved by
    ``DISTANCE`` of their norm in a random direction: the mean over the batch, in [-1, 1], in training mode and float64.

    Args:
        network: which stays as it is.
        images: [B, 3, H, W], normalised.
        seed: of the directions.

    Returns:
        The correlations by the blocks' numbers, counted from 1 at the input on, at most ``DEPTHS``.
    """
    network, images = _exactly(network), images.double()
    random = torch.Generator().manual_seed(seed)
    moves = F.normalize(torch.randn(len(images), images[0].numel(), generator=random, dtype=torch.float64))
    lengths = DISTANCE * images.flatten(1).norm(dim=1, keepdim=True)
    neighbours = images + (lengths * moves.to(images.device)).view_as(images)
    blocks = list(blocks_of(network).values())
    step = math.ceil(len(blocks) / DEPTHS)
    numbers = sorted({1, *range(len(blocks), 0, -step)})
    maps: list[Tensor] = []
    for number in numbers:
        blocks[number - 1].register_forward_hook(lambda block, x, out: maps.append(out))
    found = []
    for given in (images.detach().requires_grad_(), neighbours.detach().requires_grad_()):
        maps.clear()
        network(given)
        random.manual_seed(seed)
        along = [torch.randn(out.shape, generator=random, dtype=torch.float64).to(out.device) for out in maps]
        found.append(
            [torch.autograd.grad(out, given, v, retain_graph=True)[0] for out, v in zip(maps, along, strict=True)]
        )
    return {number: _correlation(one, other) for number, one, other in zip(numbers, *found, strict=True)}


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = (part.flatten(1) - part.flatten(1).mean(1, keepdim=True) for part in (one, other))
    return F.cosine_similarity(one, other).mean().item()


def _exactly(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).double().train().requires_grad_()
