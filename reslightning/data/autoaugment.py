"""TrivialAugment and RandAugment on batches: an operation of its own, and a magnitude, for every image.

The operations are those of torchvision's transforms on bytes, one image at a time; here all images
that get the same one go through it together, on the batch's device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Name = Literal["trivial", "rand"]
Operation = Callable[[Tensor, Tensor], Tensor]
BINS = 31  # magnitudes
RAND_OPERATIONS, RAND_MAGNITUDE = 2, 9  # what RandAugment's authors use for ResNet-50
DRAWS = 3 * RAND_OPERATIONS


def apply(name: Name, images: Tensor, draw: Tensor) -> Tensor:
    """Return images with one random operation (trivial) or two (rand) done to each.

    Args:
        name: trivial (arXiv:2103.10158, its wide space) or rand (arXiv:1909.13719).
        images: [B, 3, H, W], uint8, on any device.
        draw: [B, DRAWS] integers on the host: operation, magnitude and sign for each operation.
    """
    space = _magnitudes(name, *images.shape[-2:])
    for first in range(0, 3 if name == "trivial" else DRAWS, 3):
        kind, strength, sign = draw[:, first : first + 3].unbind(1)
        bins = strength % BINS if name == "trivial" else torch.full_like(strength, RAND_MAGNITUDE)
        images = _each(images, kind % len(space), bins, sign % 2 == 1, space)
    return images


def _each(
    images: Tensor, kind: Tensor, bins: Tensor, negative: Tensor, space: dict[str, tuple[Tensor, bool]]
) -> Tensor:
    result = images.clone()
    # Images that get the same operation stand together; both what and where come to the device without waiting for it.
    order = kind.argsort(stable=True)
    ends = kind.bincount(minlength=len(space)).cumsum(0).tolist()
    magnitudes = torch.stack([values for values, _ in space.values()])[kind, bins]
    turned = negative & torch.tensor([signed for _, signed in space.values()])[kind]
    magnitudes = torch.where(turned, -magnitudes, magnitudes)[order].to(images.device, non_blocking=True)
    order = order.to(images.device, non_blocking=True)
    for name, start, end in zip(space, [0, *ends[:-1]], ends, strict=True):
        if name != "identity" and start < end:
            chosen = order[start:end]
            result[chosen] = OPERATIONS[name](images[chosen], magnitudes[start:end])
    return result


def _magnitudes(name: Name, height: int, width: int) -> dict[str, tuple[Tensor, bool]]:
    """Return an operation's BINS magnitudes, and whether they go both ways."""

    def line(start: float, stop: float) -> Tensor:
        return torch.linspace(start, stop, BINS)

    wide = name == "trivial"
    shear, colour, steps = (0.99, 0.99, 6) if wide else (0.3, 0.9, 4)
    bits = 8 - (torch.arange(BINS) / ((BINS - 1) / steps)).round()
    none = torch.zeros(BINS)
    return {
        "identity": (none, False),
        "shear_x": (line(0, shear), True),
        "shear_y": (line(0, shear), True),
        "translate_x": (line(0, 32 if wide else 150 / 331 * width), True),
        "translate_y": (line(0, 32 if wide else 150 / 331 * height), True),
        "rotate": (line(0, 135 if wide else 30), True),
        "brightness": (line(0, colour), True),
        "color": (line(0, colour), True),
        "contrast": (line(0, colour), True),
        "sharpness": (line(0, colour), True),
        "posterize": (bits, False),
        "solarize": (line(255, 0), False),
        "autocontrast": (none, False),
        "equalize": (none, False),
    }


# -- geometry -----------------------------------------------------------------------------------


def _warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Return images whose pixel at (x, y, 1) from the centre is the nearest one to ``matrix`` [n, 2, 3] times it."""
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    places = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width, device=images.device)], -1)
    scale = torch.stack([torch.full((), side / 2, device=images.device) for side in (width, height)])
    # Divided before it is multiplied, as in torchvision: the same rounding finds the same nearest pixel.
    grid = places.view(1, -1, 3) @ (matrix.transpose(1, 2) / scale)
    moved = F.grid_sample(images.float(), grid.view(-1, height, width, 2), mode="nearest", align_corners=False)
    return moved.to(images.dtype)


def _matrix(xx: Tensor, xy: Tensor, x: Tensor, yx: Tensor, yy: Tensor, y: Tensor) -> Tensor:
    rows = torch.stack([xx, xy, x, yx, yy, y], 1).float()
    return rows.view(-1, 2, 3)


def _shear_x(images: Tensor, magnitude: Tensor) -> Tensor:
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    # About the upper left corner: there a place is not moved.
    return _warp(images, _matrix(one, magnitude, magnitude * images.shape[-2] / 2, zero, one, zero))


def _shear_y(images: Tensor, magnitude: Tensor) -> Tensor:
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    return _warp(images, _matrix(one, zero, zero, magnitude, one, magnitude * images.shape[-1] / 2))


def _translate_x(images: Tensor, magnitude: Tensor) -> Tensor:
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    return _warp(images, _matrix(one, zero, -magnitude.trunc(), zero, one, zero))


def _translate_y(images: Tensor, magnitude: Tensor) -> Tensor:
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    return _warp(images, _matrix(one, zero, zero, zero, one, -magnitude.trunc()))


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    angle, zero = degrees.double().deg2rad(), torch.zeros_like(degrees).double()
    return _warp(images, _matrix(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero))


# -- colour -------------------------------------------------------------------------------------


def _blend(images: Tensor, other: Tensor, magnitude: Tensor) -> Tensor:
    """Return 1 + magnitude times the images, and the rest of the other ones."""
    ratio = (1 + magnitude.double()).view(-1, 1, 1, 1)
    # The factors are torchvision's to the last bit: computed in double precision, used in single.
    return (images * ratio.float() + other * (1 - ratio).float()).clamp(0, 255).to(images.dtype)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(images.dtype)[:, None]


def _brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(images), magnitude)


def _color(images: Tensor, magnitude: Tensor) -> Tensor:
    return _blend(images, _grey(images), magnitude)


def _contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    return _blend(images, _grey(images).float().mean((1, 2, 3), keepdim=True), magnitude)


def _sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    if min(images.shape[-2:]) <= 2:
        return images
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    kernel = (kernel / kernel.sum()).expand(3, 1, 3, 3)
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(images.float(), kernel, groups=3).round().to(images.dtype)
    return _blend(images, smooth, magnitude)


def _posterize(images: Tensor, bits: Tensor) -> Tensor:
    mask = 256 - 2 ** (8 - bits)
    return images & mask.to(images.dtype).view(-1, 1, 1, 1)


def _solarize(images: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(images >= threshold.view(-1, 1, 1, 1), 255 - images, images)


def _autocontrast(images: Tensor, _: Tensor) -> Tensor:
    low, high = (f(images.float(), (2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    scale = 255 / (high - low)
    flat = ~torch.isfinite(scale)
    low, scale = low.masked_fill(flat, 0), scale.masked_fill(flat, 1)
    return ((images - low) * scale).clamp(0, 255).to(images.dtype)


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    values = images.reshape(count * channels, -1).long()
    histogram = torch.zeros(count * channels, 256, dtype=torch.long, device=images.device)
    histogram.scatter_add_(1, values, torch.ones_like(values))
    brightest = histogram.gather(1, values.amax(1, keepdim=True))
    step = (height * width - brightest) // 255
    table = (histogram.cumsum(1) + step // 2) // step.clamp(min=1)
    table = F.pad(table, [1, 0])[:, :-1].clamp(0, 255)
    equal = table.gather(1, values).to(images.dtype)
    return torch.where(step > 0, equal, values.to(images.dtype)).view_as(images)


OPERATIONS: dict[str, Operation] = {
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": _rotate,
    "brightness": _brightness,
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
