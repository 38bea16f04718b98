"""From an image file's bytes to pixels, decoding no more than is needed.

Training crops are cut and scaled with simplejpeg (libjpeg-turbo) and OpenCV; evaluation is Pillow's
and so torchvision's. What is no ordinary JPEG goes through Pillow in both.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # arXiv:1409.4842, Sec. 6, as torchvision has them
TRIES = 10
CROP_DRAWS = 4 * TRIES
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_BASELINE = 0xC0  # the marker of a frame that is coded row by row
_BAND = 32  # rows: two bands of blocks at the usual subsampling, of which one is smoothed into the last row

cv2.setNumThreads(0)  # the loader's workers are the parallelism


class CorruptImageError(ValueError):
    """A file holds no whole image."""


class Box(NamedTuple):
    """A part of an image in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_resized_crop_box(height: int, width: int, draws: Sequence[int], scale: tuple[float, float] = SCALE) -> Box:
    """Return a random part of an image, with the distribution of torchvision's RandomResizedCrop.

    Args:
        height: the image's, in pixels.
        width: the image's, in pixels.
        draws: CROP_DRAWS integers, uniform in [0, 2^31).
        scale: least and greatest share of the image's area.
    """
    area = height * width
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for k in range(0, 4 * TRIES, 4):
        share, shape, down, across = (value / 2**31 for value in draws[k : k + 4])
        target = area * (scale[0] + (scale[1] - scale[0]) * share)
        aspect = math.exp(low + (high - low) * shape)
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(down * (height - h + 1)), int(across * (width - w + 1)), h, w)
    # The image is longer than any crop may be: its middle.
    aspect = min(max(width / height, RATIO[0]), RATIO[1])
    w, h = (min(width, round(height * aspect)), min(height, round(width / aspect)))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def cropped(content: bytes, draws: Sequence[int], size: int, scale: tuple[float, float] = SCALE) -> Pixels:
    """Return a random part of an image, scaled to [size, size, 3].

    Args:
        content: the file's bytes.
        draws: CROP_DRAWS integers, uniform in [0, 2^31), which choose the part.
        size: height and width in pixels.
        scale: least and greatest share of the image's area.

    Raises:
        CorruptImageError: the bytes are no whole image.
    """
    return resized(*decode_part(content, draws, size, scale), size)


def decode_part(
    content: bytes, draws: Sequence[int], size: int, scale: tuple[float, float] = SCALE
) -> tuple[Pixels, Box]:
    """Return as much of an image as a random part of it needs, scaled down as far as ``size`` allows, and the part."""
    frame = _baseline_frame(content)
    if frame is None:
        pixels = decode(content)
        return pixels, random_resized_crop_box(pixels.shape[0], pixels.shape[1], draws, scale)
    place, height, width = frame
    box = random_resized_crop_box(height, width, draws, scale)
    # A header with fewer rows ends decoding below the part: with the rows goes their share of the time.
    rows = min(height, -(-(box.top + box.height) // _BAND) * _BAND + _BAND)
    short = content[:place] + rows.to_bytes(2, "big") + content[place + 2 :]
    # The decoder's own scaling, in eighths, averages what a plain interpolation would skip.
    shrinks = max(min(box.height, box.width) / size, 1.0)
    least = (math.ceil(rows / shrinks), math.ceil(width / shrinks)) if shrinks > 1 else (0, 0)
    try:
        pixels = simplejpeg.decode_jpeg(short, strict=False, min_height=least[0], min_width=least[1])
    except ValueError:
        pixels = decode(content)
    factor = pixels.shape[1] / width
    top, bottom, left, right = (
        round(edge * factor) for edge in (box.top, box.top + box.height, box.left, box.left + box.width)
    )
    return pixels, Box(top, left, bottom - top, right - left)


def center(content: bytes, resize: int, size: int) -> Pixels:
    """Return the middle [size, size, 3] of an image whose shorter side is scaled to ``resize``.

    The pixels of torchvision's Resize(resize) and CenterCrop(size) on a Pillow image, of which only
    those are computed that are kept.

    Raises:
        CorruptImageError: the bytes are no whole image.
    """
    image = Image.fromarray(decode(content))
    width, height = image.size
    short, long = min(width, height), max(width, height)
    scaled = (resize, int(resize * long / short)) if width <= height else (int(resize * long / short), resize)
    left, top = (round((length - size) / 2) for length in scaled)
    if left < 0 or top < 0:
        raise ValueError(f"a centre of {size} pixels is larger than the scaled image, {scaled[0]} x {scaled[1]}")
    across, down = width / scaled[0], height / scaled[1]
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def decode(content: bytes) -> Pixels:
    """Return all of an image as RGB [height, width, 3].

    Raises:
        CorruptImageError: the bytes are no whole image.
    """
    try:
        if simplejpeg.decode_jpeg_header(content)[2] in ("YCbCr", "Gray", "RGB"):  # of CMYK it rounds otherwise
            return simplejpeg.decode_jpeg(content)
    except ValueError:
        pass  # another format, CMYK, an odd but whole file, or a corrupt one: Pillow tells
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptImageError(str(error) or type(error).__name__) from error


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Return height and width of a whole baseline JPEG; None for any other file."""
    frame = _baseline_frame(content)
    return frame[1:] if frame else None


def _baseline_frame(content: bytes) -> tuple[int, int, int] | None:
    """Return where a whole baseline JPEG says its height, height and width; None for any other file."""
    if content[:3] != _START or content[-2:] != _END:
        return None
    place = 2
    while len(content) > place + 9 and content[place] == 0xFF:
        if content[place + 1] == 0xFF:  # markers may be filled up
            place += 1
            continue
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == _BASELINE and content[place + 9] == 3:
            height, width = (int.from_bytes(content[at : at + 2], "big") for at in (place + 5, place + 7))
            return (place + 5, height, width) if height and width else None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None  # progressive, or of other components
        place += 2 + length
    return None


def resized(pixels: Pixels, box: Box, size: int) -> Pixels:
    """Return a part of an image scaled to [size, size, 3]."""
    part = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    shrinks = min(box.height, box.width) / size
    # Averaging where many pixels are lost, as an antialiased filter does.
    return cv2.resize(
        part,  # type: ignore[return-value]
        (size, size),
        interpolation=cv2.INTER_AREA if shrinks > 1.25 else cv2.INTER_LINEAR,
    )
