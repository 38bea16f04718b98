"""Noise in place of images, for measurements that shall not wait for any data."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from reslightning.commands.bench import SYNTHETIC
from reslightning.data.base import SIZE, DataModule
from reslightning.data.memory import InMemory
from reslightning.data.options import keep
from reslightning.data.registry import Split, load
from reslightning.ranges import Range

IMAGES = 2**20  # an epoch's, about as many as ImageNet has
DIFFERENT = 512  # of them: the others repeat these


class Synthetic(InMemory):
    """Images of noise in memory, mirrored and normalised as any others.

    Options as InMemory, and:

    Args:
        size: height and width of an image in pixels.
        classes: how many there are.
    """

    own_mean = own_std = (0.5, 0.5, 0.5)
    unused = frozenset({"root", "stage_to", "download", "val_split", "crop_padding", "padding_mode"})

    def __init__(
        self, size: Annotated[int, SIZE] = 32, classes: Annotated[int, Range("2 or more")] = 10, **options: Any
    ) -> None:
        super().__init__(**options, crop_padding=0)
        keep(self, locals())
        self.image_size, self.num_classes = size, classes
        self.class_names = [str(number) for number in range(classes)]

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return what differs of the images, and of either part the same."""
        generator = torch.Generator().manual_seed(0)
        shape = (DIFFERENT, 3, self.image_size, self.image_size)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return images, torch.arange(DIFFERENT) % self.num_classes

    def labels(self, split: Split) -> Tensor:
        """Return a split's labels [N], int64."""
        return torch.arange(IMAGES if split == "train" else DIFFERENT) % self.num_classes

    def pixels(self, content: Tensor, split: Split, epoch: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return images [B, 3, H, W], uint8, labels [B] and indices [B]."""
        images, _, _ = super().pixels(content % DIFFERENT, split, epoch)
        return images, content % self.num_classes, content

    def notices(self) -> list[str]:
        """Return nothing: that images repeat is meant."""
        return []


def data_set(name: str) -> type[DataModule]:
    """Return the data set of a name of the registry, or of SYNTHETIC."""
    return Synthetic if name == SYNTHETIC else load(name)
