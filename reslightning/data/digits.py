"""scikit-learn's handwritten digits: 1,797 images that need no download."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from reslightning.data.memory import InMemory


class Digits(InMemory):
    """Handwritten digits brought to 32 x 32 pixels, the same 359 always for testing; options as InMemory."""

    num_classes = 10
    class_names = tuple("0123456789")
    own_mean = (0.305, 0.305, 0.305)
    own_std = (0.325, 0.325, 0.325)
    licence = "CC BY 4.0 (Optical Recognition of Handwritten Digits, UCI)"
    own_flip = False  # a mirrored 2 is no digit
    unused = frozenset({"root", "stage_to", "download"})  # there is nothing to find, copy or fetch

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return 1,438 training or 359 test images, 8x8 grey levels brought to 32x32 RGB."""
        images, labels = _shuffled()
        part = slice(359, None) if train else slice(359)
        return images[part].clone(), labels[part].clone()


@cache
def _shuffled() -> tuple[Tensor, Tensor]:
    """Return all images [1797, 3, 32, 32], uint8, and labels [1797], int64, read from text once a process."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    grey = torch.from_numpy(digits.images)[order, None] * (255 / 16)
    images = F.interpolate(grey, size=32, mode="bilinear").round().to(torch.uint8)
    return images.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(digits.target)[order].long()
