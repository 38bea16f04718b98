"""What a trained network loses with each of its blocks, with several, and in another order (arXiv:1605.06431, Sec. 4).

A residual block that is removed leaves its shortcut, y = relu(s(x)), or s(x) before activation (v2); a plain one leaves
nothing, y = x. What changes the map's shape is not removed: a plain network would not fit together without it, and of a
residual one padding or a projection would remain in its place.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from scipy.stats import kendalltau
from torch import Tensor, nn

from reslightning.analysis.gradient_flow import blocks_of
from reslightning.data.base import DataModule
from reslightning.data.registry import Split
from reslightning.errors import UserError
from reslightning.models.blocks import Block, PreActivationBlock, branch_convolutions
from reslightning.models.resnet import ResNet
from reslightning.run.summary import error_percent
from reslightning.train.batches import unpack
from reslightning.train.classifier import ImageClassifier

REMOVED = -1
TRIES = 100  # for each draw, to find one that is different from those before
Order = tuple[int, ...]  # at each place the number of the block that stands there, from 0, or REMOVED
Item = TypeVar("Item")


class Lesion(NamedTuple):
    """One change of a network, and what it does.

    Attributes:
        kind: none; block, of each removable block by itself; removed, of blocks drawn at random; or swapped, of pairs.
        number: how many blocks are removed, or pairs swapped.
        blocks: their names, from the input on; of pairs as they are swapped, one behind the other.
        tau: Kendall's tau-b of the order of the blocks, 1 as trained; not a number where some are removed.
        order: what stands where.
        error: top-1, percent.
    """

    kind: str
    number: int
    blocks: tuple[str, ...]
    tau: float
    order: Order
    error: float = math.nan


def removable(network: ResNet) -> list[int]:
    """Return the numbers of the blocks that keep the map's shape, which network and lesions can do without."""
    return [number for number, block in enumerate(network.blocks) if not changes_shape(block)]


def changes_shape(block: Block) -> bool:
    """Whether a block gives maps of another height, width or number of channels than it is given."""
    convolutions = branch_convolutions(block)
    strides = any(convolution.stride != (1, 1) for convolution in convolutions)
    return strides or convolutions[0].in_channels != convolutions[-1].out_channels


def bypassed(block: Block, x: Tensor) -> Tensor:
    """Return what a block without its convolutions makes of x, [B, C, H, W]: another tensor, or x itself."""
    if isinstance(block, PreActivationBlock) and block.activate_shortcut:
        out = block.shortcut(F.relu(block.bn1(x)))
    else:
        out = block.shortcut(x)
    if out is None:
        return x
    return F.relu(out) if block.rectified else out


class Rearranged(nn.Module):
    """A network with its blocks in several orders, which is none of its own: it shares the network's weights.

    Maps images [B, 3, H, W] to logits [orders * B, num_classes], those of the first order first. Where two orders have
    their first blocks in common, these are computed once: the maps behind all blocks of one order are kept meanwhile.
    """

    def __init__(self, network: ResNet, orders: Sequence[Order]) -> None:
        super().__init__()
        self.network, self.orders = network, orders

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        maps, before, found = [self.network.stem(images)], Order(), dict[Order, Tensor]()
        for order in sorted(self.orders):  # neighbours have the most in common
            alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, order, strict=False))
            shared = sum(1 for _ in alike)
            del maps[shared + 1 :]
            for place in range(shared, len(order)):
                maps.append(self._at(place, order[place], maps[-1]))
            found[order], before = self.network.head(maps[-1]), order
        return torch.cat([found[order] for order in self.orders])

    def _at(self, place: int, number: int, x: Tensor) -> Tensor:
        blocks = self.network.blocks
        return bypassed(blocks[place], x) if number == REMOVED else blocks[number](x)


def plan(network: nn.Module, draws: int, seed: int, name: str = "the network") -> list[Lesion]:
    """Return the lesions of a network without their errors: none, each block, and k blocks and k pairs at random.

    k is 1, 2, 4, ..., as far as there are blocks. Pairs are of one stage, different ones, swapped one after the other.

    Args:
        network: a ``ResNet``.
        draws: of each k, with different results; fewer where there are not so many.
        seed: of the draws.
        name: what the network is called where it is refused.

    Raises:
        UserError: it has no blocks, or none that can be removed.
    """
    names = list(blocks_of(network, name))
    assert isinstance(network, ResNet)
    whole, numbers, chance = tuple(range(len(names))), removable(network), random.Random(seed)
    if not numbers:
        raise UserError(
            f"{name} has no block that can be removed: each of its {len(names)} changes the shape of its map\nGive a "
            "network with more blocks a stage."
        )
    counts = [2**power for power in range(len(numbers).bit_length())]
    pairs = [pair for pair in itertools.combinations(numbers, 2) if len({_stage(names[number]) for number in pair}) < 2]
    without, swapped = functools.partial(_without, whole), functools.partial(_swapped, whole)
    drawn = [made for count in counts for made in _drawn(numbers, count, draws, chance, without)]
    swaps = [made for count in counts for made in _drawn(pairs, count, draws, chance, swapped)]
    return [
        Lesion("none", 0, (), 1.0, whole),
        *(Lesion("block", 1, (names[number],), math.nan, without([number])) for number in numbers),
        *(Lesion("removed", len(one), tuple(names[at] for at in sorted(one)), math.nan, order) for order, one in drawn),
        *(
            Lesion("swapped", len(one), tuple(names[at] for pair in one for at in pair), _tau(order), order)
            for order, one in swaps
        ),
    ]


def _stage(name: str) -> str:
    return name.partition(".")[0]


def _drawn(
    pool: Sequence[Item], count: int, draws: int, chance: random.Random, order: Callable[[Sequence[Item]], Order]
) -> list[tuple[Order, list[Item]]]:
    """Return different orders, each with the first choice of so many of a pool that it came of."""
    found: dict[Order, list[Item]] = {}
    for _ in range(TRIES * draws if count <= len(pool) else 0):
        if len(found) == draws:
            break
        chosen = chance.sample(pool, count)
        found.setdefault(order(chosen), chosen)
    return list(found.items())


def _without(whole: Order, removed: Sequence[int]) -> Order:
    return tuple(REMOVED if number in removed else number for number in whole)


def _swapped(whole: Order, pairs: Sequence[tuple[int, int]]) -> Order:
    order = list(whole)
    for one, other in pairs:
        order[one], order[other] = order[other], order[one]
    return tuple(order)


def _tau(order: Order) -> float:
    return float(kendalltau(range(len(order)), order).statistic)


def measured(
    trainer: Trainer, model: ImageClassifier, data: DataModule, split: Split, lesions: Sequence[Lesion]
) -> tuple[list[Lesion], int]:
    """Return lesions with their errors, and of how many images, by one pass over them, as the Trainer evaluates.

    Args:
        trainer: where it runs, in one process.
        model: which is not changed.
        data: the data module.
        split: val or test.
        lesions: of the model's network.
    """
    orders = list(dict.fromkeys(lesion.order for lesion in lesions))
    counting = _Counting(model, orders)
    (trainer.validate if split == "val" else trainer.test)(counting, datamodule=data, verbose=False)
    hits = dict(zip(orders, counting.hits.tolist(), strict=True))
    errors = {order: error_percent(count / counting.images) for order, count in hits.items()}
    return [lesion._replace(error=errors[lesion.order]) for lesion in lesions], counting.images


class _Counting(LightningModule):
    """Counts, for each order of a network's blocks, the images that it classifies rightly."""

    def __init__(self, model: ImageClassifier, orders: Sequence[Order]) -> None:
        super().__init__()
        self.model, self.orders = model, orders
        self.hits, self.images = torch.zeros(len(orders), dtype=torch.int64), 0

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch."""
        images, labels, _ = unpack(batch, self.model.num_classes)
        network = self.model.model
        assert isinstance(network, ResNet)
        self.model.model = Rearranged(network, self.orders)
        try:
            guesses = self.model.evaluated(images).argmax(1)
        finally:
            self.model.model = network
        self.hits += (guesses.view(-1, len(labels)) == labels).sum(1).cpu()
        self.images += len(labels)

    validation_step = test_step
