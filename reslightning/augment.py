"""Batched augmentations: pure tensor functions of images and integer draws, on the batch's device.

Draws are a function of (seed, epoch, sample), not of any process's state, so an epoch can be
reproduced and resumed exactly, with any number of workers and devices.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PaddingMode = Literal["zeros", "reflect"]
_MASK64 = (1 << 64) - 1


def draws(seed: int, epoch: int, samples: Tensor, count: int) -> Tensor:
    """Return ``count`` random integers per sample, uniform in [0, 2^31).

    A counter-based generator (splitmix64) in wrapping 64-bit integers: the same numbers on every
    device.

    Args:
        seed: the run's seed.
        epoch: the epoch, from 0.
        samples: indices [B], int64.
        count: how many draws each sample gets.

    Returns:
        Integers [B, count], int64.
    """
    base = _signed(_mix(_mix(seed) + epoch))
    key = _mix_tensor(samples * _GOLDEN + base)
    streams = torch.arange(1, count + 1, device=samples.device) * _GOLDEN
    return _shift(_mix_tensor(key[:, None] + streams), 33)


def permutation_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's order, independent of its augmentation's draws."""
    return _mix(_mix(seed ^ 0x5EED) + epoch) >> 1


def pad(images: Tensor, padding: int, mode: PaddingMode = "zeros") -> Tensor:
    """Add ``padding`` pixels on each side.

    Args:
        images: [N, C, H, W], any type.
        padding: pixels, fewer than H and W where reflected.
        mode: what they hold: zeros, or the reflected image without its border repeated.
    """
    if padding == 0:
        return images
    if mode == "zeros":
        return F.pad(images, (padding, padding, padding, padding))
    height, width = images.shape[-2:]
    rows, columns = _reflected(height, padding, images.device), _reflected(width, padding, images.device)
    return images.index_select(2, rows).index_select(3, columns)


def random_crop(padded: Tensor, draw: Tensor, padding: int) -> Tensor:
    """Cut the original size out of padded images, each at a random place.

    Args:
        padded: [B, C, H + 2 padding, W + 2 padding], any type.
        draw: [B, 2] integers, which choose row and column.
        padding: pixels that were added on each side.
    """
    if padding == 0:
        return padded
    batch, _, height, width = padded.shape
    windows = padded.unfold(2, height - 2 * padding, 1).unfold(3, width - 2 * padding, 1)
    top, left = (draw % (2 * padding + 1)).unbind(1)
    return windows[torch.arange(batch, device=padded.device), :, top, left]


def random_flip(images: Tensor, draw: Tensor) -> Tensor:
    """Mirror images [B, C, H, W] left to right where ``draw`` [B] is odd."""
    batch = torch.arange(len(images), device=images.device)
    # Copying whole images is several times faster than torch.where on bytes.
    return torch.cat([images, images.flip(-1)]).index_select(0, batch + len(images) * (draw % 2))


def cutout(images: Tensor, draw: Tensor, size: int) -> Tensor:
    """Set a square of ``size`` pixels, clipped at the border, to 0 (arXiv:1708.04552).

    Args:
        images: [B, C, H, W]; normalised ones, so that 0 is the mean.
        draw: [B, 2] integers, which choose the centre.
        size: side of the square in pixels; 0 returns the images.
    """
    if size == 0:
        return images
    height, width = images.shape[-2:]
    rows = _covered(height, draw[:, 0], size)[:, None, :, None]
    columns = _covered(width, draw[:, 1], size)[:, None, None, :]
    return images.masked_fill(rows & columns, 0)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Map bytes [B, C, H, W] to floats (x / 255 - mean) / std.

    Args:
        images: uint8.
        mean: [C], fractions of 255.
        std: [C], fractions of 255.
    """
    scale = (1 / (255 * std))[:, None, None]
    shift = (-mean / std)[:, None, None]
    return images.to(mean.dtype).mul_(scale).add_(shift)


def _covered(length: int, draw: Tensor, size: int) -> Tensor:
    start = draw[:, None] % length - size // 2
    place = torch.arange(length, device=draw.device)
    return (place >= start) & (place < start + size)


def _reflected(length: int, padding: int, device: torch.device) -> Tensor:
    place = torch.arange(-padding, length + padding, device=device).abs()
    return torch.where(place >= length, 2 * (length - 1) - place, place)


def _signed(value: int) -> int:
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mix(value: int) -> int:
    """Return splitmix64's next output for the state ``value``."""
    z = (value + 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK64
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK64
    return z ^ (z >> 31)


def _mix_tensor(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(_FIRST)
    z = (z ^ _shift(z, 27)) * _signed(_SECOND)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    # Torch shifts int64 arithmetically; the mask makes it a logical shift.
    return (z >> bits) & ((1 << (64 - bits)) - 1)
