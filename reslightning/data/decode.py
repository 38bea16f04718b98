"""From an image file's bytes to pixels, decoding no more than is needed.

Training crops are cut and scaled with simplejpeg (libjpeg-turbo) and OpenCV; evaluation is Pillow's
and so torchvision's. What is no ordinary JPEG goes through Pillow in both.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # arXiv:1409.4842, Sec. 6, as torchvision has them
BITS, PHOTOMETRIC, SAMPLES = 258, 262, 339  # TIFF's tags
LARGEST = 16_384  # pixels a side of anybody's picture: what is no photograph would fill the memory
LONGEST = 65_536  # the same of its longer side, once it is scaled
# Of Pillow's readers, those of the files that are images by their names, see ``layouts.SUFFIXES``.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA")
TRIES = 10
CROP_DRAWS = 4 * TRIES
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_BASELINE, _SCAN = 0xC0, 0xDA  # the markers of a frame that is coded row by row, and of what it holds
_BAND = 32  # rows: two bands of blocks at the usual subsampling, of which one is smoothed into the last row


def use_one_thread() -> None:
    """Decode and scale in the calling thread alone, in all of this process: its siblings are the parallelism."""
    cv2.setNumThreads(0)


class ImageError(ValueError):
    """A file does not give an image."""

    kind: ClassVar[str]
    remedy: ClassVar[str]

    def of(self, where: str, instead: str = "") -> str:
        """Return the message for the file at ``where``; ``instead`` is what else may be done."""
        return f"{self.kind} image {where}: {self}\n{self.remedy}{instead}."


class CorruptImageError(ImageError):
    """A file holds no whole image."""

    kind, remedy = "corrupt", "Replace or remove it"


class UnsupportedImageError(ImageError):
    """A file holds an image that eight bits would not show: of floats, say, which have no white."""

    kind, remedy = "unsupported", "Convert it to 8 or 16 bits a channel, or remove it"


class TooLargeError(ImageError):
    """An image has more pixels a side than are read."""

    kind, remedy = "too large", "Make it smaller"


class Box(NamedTuple):
    """A part of an image in pixels."""

    top: int
    left: int
    height: int
    width: int


class Turn(NamedTuple):
    """How pixels as stored become the upright picture: rows and columns are reversed, then exchanged."""

    rows: bool = False
    columns: bool = False
    exchanged: bool = False

    def upright(self, pixels: Pixels) -> Pixels:
        """Return stored pixels as they are seen."""
        pixels = pixels[:: -1 if self.rows else 1, :: -1 if self.columns else 1]
        return np.ascontiguousarray(pixels.swapaxes(0, 1) if self.exchanged else pixels)

    def stored(self, box: Box, height: int, width: int) -> Box:
        """Return where a part of the upright picture lies in an image that is stored in ``height`` x ``width``."""
        top, left, h, w = (box.left, box.top, box.width, box.height) if self.exchanged else box
        return Box(height - top - h if self.rows else top, width - left - w if self.columns else left, h, w)


ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF's tag, and its value for pixels that are stored as they are seen
TURNS = {
    UPRIGHT: Turn(),
    2: Turn(columns=True),
    3: Turn(rows=True, columns=True),
    4: Turn(rows=True),
    5: Turn(exchanged=True),
    6: Turn(rows=True, exchanged=True),
    7: Turn(rows=True, columns=True, exchanged=True),
    8: Turn(columns=True, exchanged=True),
}


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


def cropped(
    content: bytes, draws: Sequence[int], size: int, scale: tuple[float, float] = SCALE, *, upright: bool = False
) -> Pixels:
    """Return a random part of an image, scaled to [size, size, 3].

    Args:
        content: the file's bytes.
        draws: CROP_DRAWS integers, uniform in [0, 2^31), which choose the part.
        size: height and width in pixels.
        scale: least and greatest share of the image's area.
        upright: turn the image as its EXIF orientation says; the part is chosen of what is seen then.

    Raises:
        CorruptImageError: the bytes are no whole image.
        UnsupportedImageError: the image has other depths than 8 or 16 bits.
    """
    return resized(*decode_part(content, draws, size, scale, upright=upright), size)


def decode_part(
    content: bytes, draws: Sequence[int], size: int, scale: tuple[float, float] = SCALE, *, upright: bool = False
) -> tuple[Pixels, Box]:
    """Return as much of an image as a random part of it needs, scaled down as far as ``size`` allows, and the part."""
    frame = _baseline_frame(content)
    if frame is None:
        pixels = decode(content, upright=upright)
        return pixels, random_resized_crop_box(pixels.shape[0], pixels.shape[1], draws, scale)
    place, height, width = frame
    turn = TURNS[orientation(content) if upright else UPRIGHT]
    seen = (width, height) if turn.exchanged else (height, width)
    box = turn.stored(random_resized_crop_box(*seen, draws, scale), height, width)
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
    if not any(turn):
        return pixels, Box(top, left, bottom - top, right - left)
    part = turn.upright(pixels[top:bottom, left:right])
    return part, Box(0, 0, part.shape[0], part.shape[1])


def decode(content: bytes, *, upright: bool = False) -> Pixels:
    """Return all of an image, the first of several, as RGB [height, width, 3]; of 16 bits the upper eight.

    Args:
        content: the file's bytes.
        upright: turn the image as its EXIF orientation says.

    Raises:
        CorruptImageError: the bytes are no whole image.
        UnsupportedImageError: the image has other depths than 8 or 16 bits.
    """
    pixels = _decode(content)
    return TURNS[orientation(content)].upright(pixels) if upright else pixels


def _decode(content: bytes) -> Pixels:
    try:
        if simplejpeg.decode_jpeg_header(content)[2] in ("YCbCr", "Gray", "RGB"):  # of CMYK it rounds otherwise
            # libjpeg's fast cosine transform and upsampling save 4 % of the time, and change 69 % of values, to 56.
            return simplejpeg.decode_jpeg(content)
    except ValueError:
        pass  # another format, CMYK, an odd but whole file, or a corrupt one: Pillow tells
    try:
        with opened(content) as image:
            return _eight_bits(image, content)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise CorruptImageError("its bytes are of no format, or of no depth, that can be read") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever Pillow's readers make of broken bytes
        raise CorruptImageError(str(error) or type(error).__name__) from error


def _eight_bits(image: Image.Image, content: bytes) -> Pixels:
    """Return an image as RGB [height, width, 3]. Pillow's own conversion would clip 16 bits to white."""
    tags = dict(image.tag_v2) if isinstance(image, TiffImageFile) else {}
    bits, samples = tags.get(BITS, (8,)), tags.get(SAMPLES, (1,))
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode == "F" or (image.mode == "I" and not sixteen) or {*bits} - {1, 2, 4, 8, 16} or {*samples} - {1, 4}:
        kind = {2: "signed ", 3: "floating-point "}.get(samples[0], "floating-point " if image.mode == "F" else "")
        depth = bits[0] if tags else 32
        raise UnsupportedImageError(f"it has {kind}values of {depth} bits; allowed: unsigned, of 8 or 16 bits")
    if isinstance(image, PpmImageFile) and content[:2] == b"P6":
        _, _, start, how = image.tile[0]
        if how == ("RGB", 65535):  # which Pillow would round
            upper = np.frombuffer(content, np.uint8, 6 * image.height * image.width, start)[::2]
            return upper.reshape(image.height, image.width, 3)
    if not sixteen:
        return np.asarray(image.convert("RGB"))
    grey = (np.asarray(image) >> 8).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero, which Pillow sees to in 8 bits alone
        grey = 255 - grey
    return np.repeat(grey[:, :, None], 3, axis=2)


def check_size(content: bytes, resize: int) -> None:
    """Raise TooLargeError for a file whose image, by what it says, would fill the memory: nothing is decoded.

    What is no image is left to ``decode`` to say.

    Args:
        content: the file's bytes.
        resize: pixels that the shorter side will be scaled to.
    """
    try:
        with opened(content) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"it has more pixels than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} allowed") from error
    except Exception:  # whatever Pillow makes of what is no image
        return
    if max(width, height) > LARGEST:
        raise TooLargeError(f"it has {width:,} x {height:,} pixels; allowed: {LARGEST:,} a side")
    if (longer := resize * max(width, height) // max(min(width, height), 1)) > LONGEST:
        raise TooLargeError(
            f"it has {width:,} x {height:,} pixels, of which scaling the shorter side to {resize} would make "
            f"{longer:,}; allowed: {LONGEST:,}"
        )


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def opened(content: bytes) -> Image.Image:
    """Open an image file with Pillow, of FORMATS alone: others' readers start programs (of PostScript, Ghostscript).

    Raises:
        UnidentifiedImageError, or whatever else Pillow makes of broken bytes.
    """
    return Image.open(io.BytesIO(content), formats=_formats())


def orientation(content: bytes) -> int:
    """Return how an image file's pixels must be turned, 1 to 8 of TURNS, by its EXIF or XMP data."""
    if content[:3] == _START and b"Exif\0\0" not in content and b"tiff:Orientation" not in content:
        return UPRIGHT
    try:
        with opened(content) as image:
            # Of a TIFF it says how its pixels are stored, which Pillow sees to.
            found = UPRIGHT if image.format == "TIFF" else image.getexif().get(ORIENTATION, UPRIGHT)
    except Exception:  # whatever Pillow makes of broken data: it says no orientation
        return UPRIGHT
    return found if found in TURNS else UPRIGHT


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Return height and width of a whole baseline JPEG; None for any other file."""
    frame = _baseline_frame(content)
    return frame[1:] if frame else None


def segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each segment of a JPEG begins, and its marker, up to the first scan or to what is no segment."""
    place = 2
    while len(content) > place + 9 and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == 0xFF:  # markers may be filled up
            place += 1
            continue
        yield place, marker
        if marker == _SCAN:
            return
        place += 2 + length


def _baseline_frame(content: bytes) -> tuple[int, int, int] | None:
    """Return where a whole baseline JPEG says its height, height and width; None for any other file."""
    if content[:3] != _START or content[-2:] != _END:
        return None
    for place, marker in segments(content):
        if marker == _BASELINE and content[place + 9] == 3:
            height, width = (int.from_bytes(content[at : at + 2], "big") for at in (place + 5, place + 7))
            return (place + 5, height, width) if height and width else None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None  # progressive, or of other components
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
