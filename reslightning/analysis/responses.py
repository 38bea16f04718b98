"""How strongly a trained network's 3x3 layers respond (arXiv:1512.03385, Sec. 4.2 and Fig. 7).

A response is what a convolution gives behind its batch normalisation and in front of the nonlinearity, or the addition.
Before activation (v2, arXiv:1603.05027) normalisation stands in front of convolutions: there it is their output, whose
scale no normalisation sets.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reslightning.analysis.gradient_flow import blocks_of
from reslightning.models.resnet import ResNet
from reslightning.train.metrics import accumulator


class Response(NamedTuple):
    """One layer's responses.

    Attributes:
        layer: its convolution's name.
        deviation: their standard deviation over all images, places and channels together, divided by their number.
    """

    layer: str
    deviation: float


class Spread:
    """Number, mean and sum of squared distances from it, of all that is added, merged by pairs.

    By Chan, Golub and LeVeque (Updating formulae and a pairwise algorithm for computing sample variances, 1979), in
    float64: no difference of large sums, and the same at any size of the parts but for rounding.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Add all values of a tensor."""
        variance, mean = torch.var_mean(values.to(accumulator(values.device)), correction=0)
        count, away = values.numel(), mean.item() - self.mean
        whole = self.count + count
        self.squares += variance.item() * count + away * away * self.count * count / whole
        self.mean += away * count / whole
        self.count = whole

    @property
    def deviation(self) -> float:
        """The standard deviation, divided by the number of the values."""
        return math.sqrt(self.squares / self.count)


def responding(network: nn.Module, name: str = "the network") -> dict[str, nn.Module]:
    """Return, by the name of each 3x3 convolution, from the input on, the module that gives its responses.

    Raises:
        UserError: it has no blocks, in which layers and what normalises them are known.
    """
    blocks_of(network, name)
    assert isinstance(network, ResNet)
    found = {}
    for key, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            parent, dot, own = key.rpartition(".")
            behind = parent + dot + own.replace("conv", "bn")
            found[key] = module if network.pre_activation else network.get_submodule(behind)
    return found


@torch.inference_mode()
def responses(network: nn.Module, batches: Iterable[Tensor], name: str = "the network") -> list[Response]:
    """Return each 3x3 layer's responses to images, in evaluation mode, from the input on.

    Args:
        network: which stays as it is.
        batches: of images [B, 3, H, W], normalised, on any device.
        name: what the network is called where it has no blocks.

    Raises:
        UserError: it has none.
    """
    network = copy.deepcopy(network).eval()
    spreads: dict[str, Spread] = {}
    for key, module in responding(network, name).items():
        spread = spreads[key] = Spread()
        module.register_forward_hook(lambda module, given, out, spread=spread: spread.add(out))
    one = next(network.parameters())
    for images in batches:
        network(images.to(one.device, one.dtype))
    return [Response(key, spread.deviation) for key, spread in spreads.items()]
