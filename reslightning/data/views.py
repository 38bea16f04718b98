"""What of an image is evaluated: its middle, or views of any shapes, which a batch has by shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reslightning.data.decode import Pixels

Interpolation = Literal["bilinear", "bicubic"]
FILTERS: dict[Interpolation, Image.Resampling] = {
    name: Image.Resampling[name.upper()] for name in get_args(Interpolation)
}


class Sizes(NamedTuple):
    """How an image comes to the size that is evaluated; see ``DataModule.sizes``."""

    resize: int
    size: int
    interpolation: Interpolation


class Views(NamedTuple):
    """Views of a batch's images.

    Attributes:
        images: those of one shape together, each [N, 3, H, W]: as bytes, or normalised.
        owners: of which of the batch's images they are, each [N], int64.
        n_images: how many images the batch has, as the host knows it.
    """

    images: list[Tensor]
    owners: list[Tensor]
    n_images: int


def scaled(pixels: Pixels, resize: int, interpolation: Interpolation) -> Pixels:
    """Return an image [H, W, 3] whose shorter side is scaled to ``resize``, with the pixels of torchvision's Resize."""
    height, width = pixels.shape[:2]
    long = resize * max(height, width) // min(height, width)
    shape = (resize, long) if width <= height else (long, resize)
    return np.asarray(Image.fromarray(pixels).resize(shape, FILTERS[interpolation]))


def middle(pixels: Pixels, size: int) -> Pixels:
    """Return the middle [size, size, 3] of an image, which is no smaller, as torchvision's CenterCrop does."""
    top, left = (round((length - size) / 2) for length in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


def center(pixels: Pixels, sizes: Sizes) -> Pixels:
    """Return the middle of an image [H, W, 3] whose shorter side is scaled."""
    return middle(scaled(pixels, sizes.resize, sizes.interpolation), sizes.size)


def grouped(images: Sequence[Sequence[Pixels]]) -> Views:
    """Return the views of each of a batch's images: none is padded to another's shape."""
    shapes: dict[tuple[int, ...], list[tuple[int, Pixels]]] = {}
    for owner, views in enumerate(images):
        for view in views:
            shapes.setdefault(view.shape, []).append((owner, view))
    return Views(
        [stack([view for _, view in group]) for group in shapes.values()],
        [torch.tensor([owner for owner, _ in group]) for group in shapes.values()],
        len(images),
    )


def stack(images: Sequence[Pixels]) -> Tensor:
    """Return images [B, 3, H, W], in memory with channels last as they were decoded."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
