"""The one network: residual or plain, for ImageNet or CIFAR (arXiv:1512.03385, Sec. 3 and 4)."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslightning.errors import UserError
from reslightning.models.architectures import Architecture, resolve_options
from reslightning.models.blocks import (
    BasicBlock,
    Block,
    Bottleneck,
    PreActivationBasicBlock,
    PreActivationBottleneck,
    branch_convolutions,
)
from reslightning.models.borrowed import borrow
from reslightning.models.checkpointing import checkpointed
from reslightning.models.features import without_head
from reslightning.models.normalization import fixup_start, he_start, normalization
from reslightning.models.weights import load_weights
from reslightning.ranges import Range, check_values

WINDOW = 7  # of the last map: all that there is of a picture of 224 pixels


def build_model(
    arch: str,
    *,
    num_classes: Annotated[int | None, Range("1 or more")] = None,
    shortcut: str | None = None,
    version: str | None = None,
    norm: str | None = None,
    weights: str | None = None,
    zero_init_residual: bool = False,
    features: bool = False,
) -> nn.Module:
    """Build a network; None is the architecture's own default throughout.

    Parameter names and shapes are torchvision's, so state dicts go both ways unchanged.

    Args:
        arch: a name of ``list_architectures()`` (see ``borrow`` for torchvision's), or resnetD or plainD, D = 6n + 2.
        num_classes: outputs of the final layer (1000 for ImageNet's networks, 10 for CIFAR's).
        shortcut: A (identity with zero padding), B (projection where the shape changes) or
            C (projections everywhere); arXiv:1512.03385, Sec. 4.1.
        version: v1 (stride in a bottleneck's first 1x1), v1.5 (in its 3x3), v2 (pre-activation, arXiv:1603.05027).
        norm: batch, or none: Fixup in residual networks (arXiv:1901.09321), biases in plain ones.
        weights: where they are, see ``load_weights``; None initialises as He et al. do (arXiv:1502.01852).
        zero_init_residual: start each block's last scale at zero, as an identity (arXiv:1706.02677, Sec. 5.1).
        features: leave out the final layer, the weights' too: the vectors [B, D] of the last pooling are returned.

    Returns:
        A module that maps images [B, 3, H, W], normalised floats, to logits [B, num_classes].

    Raises:
        UserError: an unknown name or option, or weights that do not fit.
    """
    check_values(build_model, locals(), "")
    network = resolve_options(arch, shortcut, version, norm)
    classes = network.num_classes if num_classes is None else num_classes
    if zero_init_residual and network.shortcut is None:
        raise UserError(f"zero_init_residual needs shortcuts, to pass by what starts at zero, and {arch} has none")
    model: nn.Module
    if isinstance(network, Architecture):
        model = ResNet(network, num_classes=classes, zero_init_residual=zero_init_residual)
    else:
        model = borrow(arch, classes)
    if weights is not None:
        load_weights(model, str(weights), arch, shortcut=shortcut, version=version, norm=norm, new_head=features)
    return without_head(model) if features else model


class ResNet(nn.Module):
    """A stem, three or four stages of blocks, global average pooling and a linear layer.

    As in torchvision's networks ``avgpool`` is a module of its own: a hook on it has the last map [B, C, h, w], and the
    pooled vectors [B, C, 1, 1] that stand for the images.

    Attributes:
        activation_checkpointing: keep only what blocks are given in training, and compute again what is within them.
    """

    activation_checkpointing = False

    def __init__(
        self,
        architecture: Architecture,
        *,
        num_classes: int,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        self.pre_activation = architecture.version == "v2"
        width = architecture.widths[0]
        if architecture.stem == "imagenet":
            self.conv1: nn.Conv2d = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        if not self.pre_activation:
            self.bn1 = normalization(architecture, width)
        self.stages: list[str] = []
        for number, stage in enumerate(_stages(architecture), start=1):
            self.stages.append(f"layer{number}")
            setattr(self, f"layer{number}", stage)
        features = architecture.widths[-1] * architecture.expansion
        if self.pre_activation:
            self.norm = normalization(architecture, features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(features, num_classes)
        he_start(self)
        if architecture.fixup:
            fixup_start([branch_convolutions(block) for block in self.blocks], self.fc)
        if zero_init_residual:
            self._zero_init_residual(architecture)

    @property
    def blocks(self) -> list[Block]:
        """The blocks of all stages, from the input on."""
        return [block for stage in self.stages for block in getattr(self, stage)]

    def _zero_init_residual(self, architecture: Architecture) -> None:
        if architecture.norm == "none":
            raise UserError(
                "zero_init_residual is of batch normalisation's scales: leave it out, with norm none every branch "
                "starts at zero"
            )
        if self.pre_activation:
            raise UserError(
                "zero_init_residual needs version v1 or v1.5: in a pre-activation block (v2) a scale of "
                "zero is followed by a rectifier, which would never pass a gradient again"
            )
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                nn.init.zeros_(last.weight)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to logits [B, num_classes]."""
        return self.head(self._through_blocks(images))

    def stem(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to what the first block is given, [B, C, h, w]."""
        x = self.conv1(images)
        if not self.pre_activation:
            x = F.relu(self.bn1(x), inplace=True)
        return self.maxpool(x)

    def head(self, x: Tensor) -> Tensor:
        """Map what the last block gives, [B, C, h, w], to logits [B, num_classes]."""
        return self.fc(self.avgpool(self._activated(x)).flatten(1))

    def dense(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to the logits [B, num_classes] of the network as a fully convolutional one.

        Every 7 x 7 window of the last map, which is what a picture of 224 pixels has, is averaged and classified by
        the final layer as a 1 x 1 convolution, and the logits are averaged over the windows (arXiv:1512.03385,
        Sec. 3.4; arXiv:1409.1556, Sec. 3.2). Averaging the whole map at once would weigh its border as much as its
        middle, which more windows see. The map must have 7 x 7 places: pictures have 193 pixels or more a side.
        """
        windows = F.avg_pool2d(self._activated(self._through_blocks(images)), WINDOW, stride=1)
        return F.conv2d(windows, self.fc.weight[:, :, None, None], self.fc.bias).mean((2, 3))

    def _through_blocks(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            for block in self.blocks:
                x = checkpointed(block, x)
            return x
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return x

    def _activated(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x), inplace=True) if self.pre_activation else x


def _stages(architecture: Architecture) -> list[nn.Sequential]:
    stages = []
    channels = architecture.widths[0]
    for number, (depth, width) in enumerate(zip(architecture.depths, architecture.widths, strict=True)):
        blocks: list[nn.Module] = []
        for position in range(depth):
            stride = 2 if number > 0 and position == 0 else 1
            if architecture.version == "v2":
                first = number == 0 and position == 0
                pre = PreActivationBasicBlock if architecture.block == "basic" else PreActivationBottleneck
                blocks.append(pre(channels, width, stride, architecture, first))
            else:
                post = BasicBlock if architecture.block == "basic" else Bottleneck
                blocks.append(post(channels, width, stride, architecture))
            channels = width * architecture.expansion
        stages.append(nn.Sequential(*blocks))
    return stages
