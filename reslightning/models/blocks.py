"""Residual blocks (arXiv:1512.03385, Fig. 5) and pre-activation ones (arXiv:1603.05027, Fig. 4e).

Each maps [B, C_in, H, W] to [B, C_out, H / stride, W / stride].
"""

from __future__ import annotations

from abc import abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from reslightning.models.architectures import Shortcut, Version
from reslightning.models.shortcuts import make_shortcut


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size at stride 1; no bias, normalisation follows."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class Block(nn.Module):
    """What all blocks share: the shortcut, added to the residual unless the network is plain."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut | None, normalize: bool
    ) -> None:
        super().__init__()
        self.plain = shortcut is None
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride, normalize=normalize)

    def add_shortcut(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return F(x) + x, with x projected where shapes differ; F(x) in a plain network."""
        if self.plain:
            return residual
        return residual + (x if self.downsample is None else self.downsample(x))


class BasicBlock(Block):
    """Two 3x3 convolutions, each followed by batch normalisation."""

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut | None, version: Version) -> None:
        super().__init__(in_channels, width, stride, shortcut, normalize=True)
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(self.add_shortcut(out, x), inplace=True)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, each followed by batch normalisation."""

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut | None, version: Version) -> None:
        super().__init__(in_channels, 4 * width, stride, shortcut, normalize=True)
        # v1 (the paper) strides in the first 1x1, v1.5 (torchvision) in the 3x3.
        first, second = (stride, 1) if version == "v1" else (1, stride)
        self.conv1 = conv1x1(in_channels, width, first)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, second)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, 4 * width)
        self.bn3 = nn.BatchNorm2d(4 * width)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(self.add_shortcut(out, x), inplace=True)


class PreActivationBlock(Block):
    """Normalise, rectify, then convolve; the identity path stays untouched.

    A projection reads the activated input, and so does the shortcut of the network's first block
    (arXiv:1603.05027, appendix: the stem's output is activated before the paths split).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut | None, first: bool
    ) -> None:
        super().__init__(in_channels, out_channels, stride, shortcut, normalize=False)
        self.activate_shortcut = first or isinstance(self.downsample, nn.Sequential)
        self.bn1 = nn.BatchNorm2d(in_channels)

    @abstractmethod
    def residual(self, activated: Tensor) -> Tensor:
        """Return F of the activated input."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        activated = F.relu(self.bn1(x), inplace=True)
        return self.add_shortcut(self.residual(activated), activated if self.activate_shortcut else x)


class PreActivationBasicBlock(PreActivationBlock):
    """Two 3x3 convolutions, each preceded by batch normalisation."""

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut | None, first: bool) -> None:
        super().__init__(in_channels, width, stride, shortcut, first)
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)

    def residual(self, activated: Tensor) -> Tensor:  # noqa: D102
        out = self.conv1(activated)
        return self.conv2(F.relu(self.bn2(out), inplace=True))


class PreActivationBottleneck(PreActivationBlock):
    """1x1, 3x3 and 1x1 convolutions, each preceded by batch normalisation."""

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut | None, first: bool) -> None:
        super().__init__(in_channels, 4 * width, stride, shortcut, first)
        self.conv1 = conv1x1(in_channels, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, 4 * width)

    def residual(self, activated: Tensor) -> Tensor:  # noqa: D102
        out = self.conv1(activated)
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        return self.conv3(F.relu(self.bn3(out), inplace=True))
