"""A sheet of captioned pictures as one image, with heat maps over them where there are any; without torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from reslightning.data.decode import Pixels

FEWEST = 6  # columns, if there are so many cells
# Pixels: of a picture's longer side, which 8, 16, 32 and 64 divide; of a wrong one's frame; between cells.
SIDE, FRAME, GAP = 192, 4, 12
WIDTH = SIDE + 2 * FRAME
LETTER, HEADING, SPACING = 12, 16, 4
WRONG = "#D55E00"  # Okabe and Ito's vermilion
SIGN = "✗ "
THICK = 0.65  # of a heat's colours where it is greatest


class Cell(NamedTuple):
    """One picture of a sheet.

    Attributes:
        picture: [H, W, 3], uint8, of any size and aspect.
        lines: what stands below it; the first is the file's name.
        wrong: whether it is marked, by a frame and by ✗ in front of its name.
        heat: [h, w], a class activation map over the whole picture, drawn over it: what is positive, by its maximum.
    """

    picture: Pixels
    lines: Sequence[str]
    wrong: bool = False
    heat: np.ndarray | None = None


def sheet(cells: Sequence[Cell], title: str | None = None) -> Image.Image:
    """Return pictures in rows, each above its caption, of which what is too long is shortened in its middle.

    Args:
        cells: the pictures, from left to right and from top to bottom.
        title: stands above them, in as many lines as it has.
    """
    font, large = _font(LETTER), _font(HEADING)
    captions = [[_shortened(_drawable(line), font) for line in _marked(cell)] for cell in cells]
    columns = min(len(cells), max(FEWEST, math.ceil(math.sqrt(len(cells))))) or 1
    height = WIDTH + SPACING + max(map(len, captions), default=0) * (LETTER + SPACING)
    heading = [_drawable(line) for line in (title or "").splitlines()]
    head = GAP + len(heading) * (HEADING + SPACING) + (GAP if heading else 0)
    wide = max(columns * (WIDTH + GAP) - GAP, *(math.ceil(large.getlength(line)) + FRAME for line in heading), 0)
    image = Image.new("RGB", (wide + 2 * GAP, head + -(-len(cells) // columns) * (height + GAP)), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(heading):
        draw.text((GAP + FRAME, GAP + number * (HEADING + SPACING)), line, "black", large)
    for number, (cell, lines) in enumerate(zip(cells, captions, strict=True)):
        left = GAP + FRAME + number % columns * (WIDTH + GAP)
        bottom = head + number // columns * (height + GAP) + FRAME + SIDE
        _place(image, cell, left, bottom)
        for row, line in enumerate(lines):
            draw.text((left, bottom + FRAME + SPACING + row * (LETTER + SPACING)), line, "black", font)
    return image


def _marked(cell: Cell) -> list[str]:
    first, *others = cell.lines or [""]
    return [(SIGN if cell.wrong else "") + first, *others]


def _place(image: Image.Image, cell: Cell, left: int, bottom: int) -> None:
    """Put a cell's picture, as large as fits, into the lower left corner of its place, with its heat and frame."""
    height, width = cell.picture.shape[:2]
    size = max(1, SIDE * width // max(height, width)), max(1, SIDE * height // max(height, width))
    # Pixels that come out as whole squares stay that; between others there would be broad and narrow ones.
    way = Image.Resampling.NEAREST if size[0] % width == size[1] % height == 0 else Image.Resampling.BICUBIC
    picture = Image.fromarray(np.ascontiguousarray(cell.picture)).resize(size, way)
    if cell.heat is not None:
        picture = _heated(picture, cell.heat)
    if cell.wrong:
        outside = left - FRAME, bottom - size[1] - FRAME, left + size[0] + FRAME - 1, bottom + FRAME - 1
        ImageDraw.Draw(image).rectangle(outside, fill=WRONG)
    image.paste(picture, (left, bottom - size[1]))


def _heated(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """Return a picture under a map [h, w], scaled to its own maximum, the thicker the more a place counts."""
    from matplotlib import colormaps

    positive = Image.fromarray(np.nan_to_num(heat).clip(0).astype(np.float32))
    field = np.asarray(positive.resize(picture.size, Image.Resampling.BICUBIC)).clip(0)
    share = field / max(field.max(), np.finfo(np.float32).tiny)
    colours = Image.fromarray(np.ascontiguousarray(colormaps["inferno"](share, bytes=True)[..., :3]))
    return Image.composite(colours, picture, Image.fromarray((THICK * 255 * share).astype(np.uint8)))


def _shortened(line: str, font: ImageFont.FreeTypeFont) -> str:
    """Return a line with so much of its middle replaced by … that it is no wider than a picture."""
    short, kept = line, len(line)
    while kept and font.getlength(short) > SIDE:
        kept -= 1
        short = f"{line[: -(-kept // 2)]}…{line[len(line) - kept // 2 :]}"
    return short


def _drawable(line: str) -> str:
    r"""Return a line with what the font lacks written out: 猫 as \\u732b, which is told from others, as no box is."""
    known = _letters()
    letters = (c if ord(c) in known else c.encode("ascii", "backslashreplace").decode() for c in " ".join(line.split()))
    return "".join(letters)


def _file() -> str:
    import matplotlib as mpl

    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_file(), size)


@functools.cache
def _letters() -> frozenset[int]:
    """Return the code points that the font has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(_file()).get_charmap())
