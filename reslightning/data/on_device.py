"""Decoding JPEGs on the device that trains, in place of the loader's workers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reslightning.data.augmentations import scale


def decoded(items: Sequence[Any], device: torch.device, size: int) -> Tensor:
    """Decode JPEGs on a device and return their crops [B, 3, size, size], uint8."""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.from_numpy(item[0].copy()) for item in items if isinstance(item, tuple)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*decoding and encoding capabilities of TorchVision are deprecated")
        pictures = iter(decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device) if encoded else [])
    batch = torch.empty(len(items), 3, size, size, dtype=torch.uint8, device=device)
    for row, item in zip(batch, items, strict=True):
        if isinstance(item, tuple):
            top, left, height, width = item[1]
            part = next(pictures)[None, :, top : top + height, left : left + width]
            row.copy_(scale(part, size)[0])
        else:
            row.copy_(torch.from_numpy(item).permute(2, 0, 1))
    return batch
