"""Decoding JPEGs on the device that trains, in place of the loader's workers (torchcodec, the extra ``decode``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslightning.data.augmentations import scale
from reslightning.data.decode import Pixels, segments
from reslightning.errors import UserError

_APP1, _APP15 = 0xE1, 0xEF


def check() -> None:
    """Raise UserError where there is no decoder."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # not there, or made for another version of torch
        raise UserError(
            f"data.device_decode needs torchcodec, which cannot be imported: {error}\nInstall the extra: pip install "
            "'reslightning[decode]'. Or leave data.device_decode out: the loader's workers decode then."
        ) from error


def as_stored(content: bytes) -> Pixels:
    """Return a JPEG's bytes [N], uint8, less what torchcodec turns pictures by, wanted or not: Exif's segments."""
    found = np.frombuffer(content, np.uint8).copy()
    for place, marker in segments(content):
        if marker == _APP1:
            found[place + 1] = _APP15  # which nobody reads
    return found


def decoded(items: Sequence[Any], device: torch.device, size: int) -> Tensor:
    """Decode JPEGs on a device and return their crops [B, 3, size, size], uint8.

    Args:
        items: bytes as they are decoded with the part to crop, or a crop [size, size, 3] that is made already.
        device: the device.
        size: height and width in pixels.

    Raises:
        RuntimeError: the device cannot decode one of them.
    """
    from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]

    encoded = [torch.from_numpy(item[0]) for item in items if isinstance(item, tuple)]
    pictures = iter(decode_jpeg(encoded, device=device) if encoded else [])
    batch = torch.empty(len(items), 3, size, size, dtype=torch.uint8, device=device)
    for row, item in zip(batch, items, strict=True):
        if isinstance(item, tuple):
            top, left, height, width = item[1]
            part = next(pictures)[None, :, top : top + height, left : left + width]
            row.copy_(scale(part, size)[0])
        else:
            row.copy_(torch.from_numpy(item).permute(2, 0, 1), non_blocking=True)
    return batch
