"""Shortcut options A, B and C (arXiv:1512.03385, Sec. 3.3 and 4.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from reslightning.models.architectures import Architecture, projects
from reslightning.models.normalization import convolution


class ZeroPad(nn.Module):
    """Option A: identity, subsampled by ``stride``, with zero channels added; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # Half of the new channels before, half behind: the placing that published weights of
        # the CIFAR networks were trained with.
        extra = out_channels - in_channels
        self.padding = (0, 0, 0, 0, extra // 2, extra - extra // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, ceil(H / stride), ceil(W / stride)]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)


def make_shortcut(network: Architecture, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Return what a block's shortcut consists of; None is the identity (or no shortcut at all).

    Args:
        network: what the block is of: its shortcut is A, B, C, or None of a plain one. Behind a projection there is
            batch normalisation, where the network has it, but not in pre-activation blocks.
        in_channels: channels of the block's input.
        out_channels: channels of the block's output.
        stride: the block's stride.
    """
    changes = stride != 1 or in_channels != out_channels
    if projects(network.shortcut, changes=changes):
        normalized = network.norm == "batch" and network.version != "v2"
        projection = convolution(network, in_channels, out_channels, 1, stride)
        return nn.Sequential(projection, *([nn.BatchNorm2d(out_channels)] if normalized else []))
    return ZeroPad(in_channels, out_channels, stride) if network.shortcut == "A" and changes else None
