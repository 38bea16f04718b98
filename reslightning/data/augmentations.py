"""Batched augmentations: pure tensor functions of images and integer draws, on the batch's device.

Draws are a function of (seed, epoch, sample), not of any process's state, so an epoch can be
reproduced and resumed exactly, with any number of workers and devices.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PaddingMode = Literal["zeros", "reflect"]
_MASK64 = (1 << 64) - 1
_TRIES = 10  # rectangles to find one that fits
ERASING_DRAWS = 3 + 2 * _TRIES


def draws(seed: int, epoch: int, samples: Tensor, count: int, first: int = 0) -> Tensor:
    """Return ``count`` random integers per sample, uniform in [0, 2^31), from its ``first`` on.

    A counter-based generator (splitmix64) in wrapping 64-bit integers: the same numbers on every
    device.

    Args:
        seed: the run's seed.
        epoch: the epoch, from 0.
        samples: indices [B], int64.
        count: how many draws each sample gets.
        first: how many of its draws others have.

    Returns:
        Integers [B, count], int64.
    """
    base = _signed(_mix(_mix(seed) + epoch))
    key = _mix_tensor(samples * _GOLDEN + base)
    streams = torch.arange(first + 1, first + count + 1, device=samples.device) * _GOLDEN
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


def scale(images: Tensor, size: int) -> Tensor:
    """Scale images [B, C, H, W], uint8, to [B, C, size, size], bilinear with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    scaled = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def flip_(images: Tensor, which: Tensor) -> Tensor:
    """Mirror images [B, C, H, W] left to right, in place, where ``which`` [B], on their device, is odd."""
    odd = which % 2 == 1
    if images.device.type != "cpu":
        return images.copy_(_mirrored(images, odd))
    rows = odd.nonzero()[:, 0]
    if images.is_contiguous():
        return images.index_copy_(0, rows, images.index_select(0, rows).flip(-1))
    for row in rows.tolist():  # with channels last, all at once is several times slower
        images[row] = images[row].flip(-1)
    return images


def _mirrored(images: Tensor, odd: Tensor) -> Tensor:
    """Return images of which some are mirrored, at the cost of all, but without a look at which."""
    return torch.where(odd[:, None, None, None], images.flip(-1), images)


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
    return _blank(images, draw[:, 0] % height - size // 2, draw[:, 1] % width - size // 2, size, size)


def random_erasing(images: Tensor, draw: Tensor, probability: float) -> Tensor:
    """Set a random rectangle of some images to 0 (arXiv:1708.04896), as torchvision's RandomErasing does.

    Its area is 2 to 33 % of the image's, its height 0.3 to 3.3 times its width.

    Args:
        images: [B, C, H, W]; normalised ones, so that 0 is the mean.
        draw: [B, ERASING_DRAWS] integers.
        probability: of an image to be erased from.
    """
    height, width = images.shape[-2:]
    share = draw / 2**31
    area = height * width * (0.02 + 0.31 * share[:, 3 : 3 + _TRIES])
    log_ratio = math.log(0.3) + (math.log(3.3) - math.log(0.3)) * share[:, 3 + _TRIES :]
    heights, widths = (area * log_ratio.exp()).sqrt().round(), (area / log_ratio.exp()).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(1, keepdim=True)
    erased = (share[:, 0] < probability) & fits.any(1)
    high = heights.gather(1, first)[:, 0] * erased
    wide = widths.gather(1, first)[:, 0]
    top = (share[:, 1] * (height - high + 1)).floor()
    left = (share[:, 2] * (width - wide + 1)).floor()
    return _blank(images, top, left, high, wide)


def mix(
    images: Tensor, targets: Tensor, chance: np.random.Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Mix every image and target with its neighbour's: mixup or CutMix, one of them for the whole batch.

    Args:
        images: [B, C, H, W], floats.
        targets: probabilities [B, classes].
        chance: chooses between them, and how much is mixed.
        mixup: alpha of mixup (arXiv:1710.09412), 0 for none.
        cutmix: alpha of CutMix (arXiv:1905.04899), 0 for none.
    """
    blends = chance.random() < 0.5 if mixup and cutmix else bool(mixup)
    alpha = mixup if blends else cutmix
    kept = float(chance.beta(alpha, alpha))
    if blends:
        images = images.lerp(images.roll(1, 0), 1 - kept)
    else:
        height, width = images.shape[-2:]
        half = 0.5 * math.sqrt(1 - kept)
        y, x = int(chance.integers(height)), int(chance.integers(width))
        rows = slice(max(y - int(half * height), 0), min(y + int(half * height), height))
        columns = slice(max(x - int(half * width), 0), min(x + int(half * width), width))
        images = images.clone()
        images[:, :, rows, columns] = images.roll(1, 0)[:, :, rows, columns]
        kept = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return images, targets.lerp(targets.roll(1, 0), 1 - kept)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Map bytes [B, C, H, W] to floats (x / 255 - mean) / std.

    Args:
        images: uint8.
        mean: [C], fractions of 255.
        std: [C], fractions of 255.
    """
    scale, shift = 1 / (255 * std), -mean / std
    if images.is_contiguous():
        return images.to(mean.dtype).mul_(scale[:, None, None]).add_(shift[:, None, None])
    # With channels last a row of pixels goes through at once: three values at a time are twice as slow.
    batch, channels, height, width = images.shape
    rows = images.permute(0, 2, 3, 1).reshape(batch * height, width * channels).to(mean.dtype)
    rows = rows.mul_(scale.repeat(width)).add_(shift.repeat(width))
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _blank(images: Tensor, top: Tensor, left: Tensor, high: Tensor | int, wide: Tensor | int) -> Tensor:
    """Set a rectangle of every image to 0, what of it lies inside."""
    height, width = images.shape[-2:]
    rows = _covered(height, top, top + high)[:, None, :, None]
    columns = _covered(width, left, left + wide)[:, None, None, :]
    return images.masked_fill(rows & columns, 0)


def _covered(length: int, start: Tensor, stop: Tensor) -> Tensor:
    place = torch.arange(length, device=start.device)
    return (place >= start[:, None]) & (place < stop[:, None])


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
