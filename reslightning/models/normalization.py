"""Batch normalisation, or what stands in its place: in residual networks Fixup (arXiv:1901.09321), in others biases.

Fixup's start, not its layers, keeps maps and gradients from growing with depth: every branch begins at zero, and a step
of gradient descent changes what the network gives by the order of the learning rate at any depth (Sec. 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslightning.models.architectures import Architecture


class Bias(nn.Module):
    """Adds a bias to a map [B, C, H, W]: one of all channels (size 1), or one of each (size C)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + self.bias[:, None, None]


class FixupConv2d(nn.Conv2d):
    """A convolution with a scalar added to its input, and a branch's last one with one that multiplies its output."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, *, last: bool) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.shift = nn.Parameter(torch.zeros(1))
        self.multiplier = nn.Parameter(torch.ones(1)) if last else None

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out = super().forward(x + self.shift)
        return out if self.multiplier is None else self.multiplier * out


def normalization(network: Architecture, channels: int) -> nn.Module:
    """Return batch normalisation of so many channels, or the biases in its place."""
    return nn.BatchNorm2d(channels) if network.norm == "batch" else Bias(network.biases(channels))


def normalisations(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return a network's batch normalisations by name."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    return {name: module for name, module in found.items() if module.running_mean is not None}


def convolution(
    network: Architecture, in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, last: bool = False
) -> nn.Conv2d:
    """Return a block's convolution without bias, which keeps the size at stride 1.

    Args:
        network: what the block is of.
        in_channels: channels of its input.
        out_channels: channels of its output.
        kernel: 1 or 3.
        stride: in both directions.
        last: whether it is its branch's last one.
    """
    if network.fixup:
        return FixupConv2d(in_channels, out_channels, kernel, stride, last=last)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def he_start(network: nn.Module) -> None:
    """Draw convolutions as He et al. do, for the rectifiers behind them (arXiv:1502.01852, Sec. 2.2, backward)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def fixup_start(branches: list[list[nn.Conv2d]], final: nn.Linear) -> None:
    """Start from He's draws as Fixup does (Sec. 3): L branches of m convolutions, the others scaled by L^(-1/(2m-2)).

    Args:
        branches: the convolutions of every block's branch, in order: the last one starts at zero.
        final: the final layer, which starts at zero.
    """
    with torch.no_grad():
        for *others, last in branches:
            for convolution in others:
                convolution.weight *= len(branches) ** (-1 / (2 * len(others)))
            last.weight.zero_()
        final.weight.zero_()
        final.bias.zero_()
