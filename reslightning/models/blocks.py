"""Residual blocks (arXiv:1512.03385, Fig. 5) and pre-activation ones (arXiv:1603.05027, Fig. 4e).

Each maps [B, C_in, H, W] to [B, C_out, H / stride, W / stride].
"""

from __future__ import annotations

from abc import abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from reslightning.models.architectures import Architecture
from reslightning.models.normalization import convolution, normalization
from reslightning.models.shortcuts import make_shortcut


class Block(nn.Module):
    """What all blocks share: the shortcut, added to the residual unless the network is plain."""

    rectified = True  # whether a rectifier stands behind the sum

    def __init__(self, in_channels: int, out_channels: int, stride: int, network: Architecture) -> None:
        super().__init__()
        self.plain = network.shortcut is None
        self.downsample = make_shortcut(network, in_channels, out_channels, stride)

    @abstractmethod
    def branches(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return F(x), and the shortcut's x, projected where shapes differ; None in a plain network."""

    def shortcut(self, x: Tensor) -> Tensor | None:
        """Return x, projected where shapes differ; None in a plain network."""
        if self.plain:
            return None
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        residual, shortcut = self.branches(x)
        out = residual if shortcut is None else residual + shortcut
        return F.relu(out, inplace=True) if self.rectified else out


class BasicBlock(Block):
    """Two 3x3 convolutions, each followed by batch normalisation."""

    def __init__(self, in_channels: int, width: int, stride: int, network: Architecture) -> None:
        super().__init__(in_channels, width, stride, network)
        self.conv1 = convolution(network, in_channels, width, 3, stride)
        self.bn1 = normalization(network, width)
        self.conv2 = convolution(network, width, width, 3, last=True)
        self.bn2 = normalization(network, width)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(out)), self.shortcut(x)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, each followed by batch normalisation."""

    def __init__(self, in_channels: int, width: int, stride: int, network: Architecture) -> None:
        super().__init__(in_channels, 4 * width, stride, network)
        # v1 (the paper) strides in the first 1x1, v1.5 (torchvision) in the 3x3.
        first, second = (stride, 1) if network.version == "v1" else (1, stride)
        self.conv1 = convolution(network, in_channels, width, 1, first)
        self.bn1 = normalization(network, width)
        self.conv2 = convolution(network, width, width, 3, second)
        self.bn2 = normalization(network, width)
        self.conv3 = convolution(network, width, 4 * width, 1, last=True)
        self.bn3 = normalization(network, 4 * width)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.bn3(self.conv3(out)), self.shortcut(x)


class PreActivationBlock(Block):
    """Normalise, rectify, then convolve; the identity path stays untouched.

    A projection reads the activated input, and so does the shortcut of the network's first block
    (arXiv:1603.05027, appendix: the stem's output is activated before the paths split).
    """

    rectified = False

    def __init__(self, in_channels: int, out_channels: int, stride: int, network: Architecture, first: bool) -> None:
        super().__init__(in_channels, out_channels, stride, network)
        self.activate_shortcut = first or isinstance(self.downsample, nn.Sequential)
        self.bn1 = normalization(network, in_channels)

    @abstractmethod
    def residual(self, activated: Tensor) -> Tensor:
        """Return F of the activated input."""

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        activated = F.relu(self.bn1(x), inplace=True)
        return self.residual(activated), self.shortcut(activated if self.activate_shortcut else x)


class PreActivationBasicBlock(PreActivationBlock):
    """Two 3x3 convolutions, each preceded by batch normalisation."""

    def __init__(self, in_channels: int, width: int, stride: int, network: Architecture, first: bool) -> None:
        super().__init__(in_channels, width, stride, network, first)
        self.conv1 = convolution(network, in_channels, width, 3, stride)
        self.bn2 = normalization(network, width)
        self.conv2 = convolution(network, width, width, 3, last=True)

    def residual(self, activated: Tensor) -> Tensor:  # noqa: D102
        out = self.conv1(activated)
        return self.conv2(F.relu(self.bn2(out), inplace=True))


class PreActivationBottleneck(PreActivationBlock):
    """1x1, 3x3 and 1x1 convolutions, each preceded by batch normalisation."""

    def __init__(self, in_channels: int, width: int, stride: int, network: Architecture, first: bool) -> None:
        super().__init__(in_channels, 4 * width, stride, network, first)
        self.conv1 = convolution(network, in_channels, width, 1)
        self.bn2 = normalization(network, width)
        self.conv2 = convolution(network, width, width, 3, stride)
        self.bn3 = normalization(network, width)
        self.conv3 = convolution(network, width, 4 * width, 1, last=True)

    def residual(self, activated: Tensor) -> Tensor:  # noqa: D102
        out = self.conv1(activated)
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        return self.conv3(F.relu(self.bn3(out), inplace=True))


def branch_convolutions(block: Block) -> list[nn.Conv2d]:
    """Return the convolutions of a block's branch, in order."""
    return [module for name, module in block.named_children() if name.startswith("conv")]  # type: ignore[misc]
