"""Sheets of pictures: nothing runs together or is cut off, what is wrong is marked, heat lies where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from reslightning.evaluation.sheet import FRAME, GAP, SIDE, WRONG, Cell, sheet

GREY = np.full((8, 8, 3), 90, np.uint8)
ORANGE = tuple(int(WRONG[k : k + 2], 16) for k in (1, 3, 5))
STEP = SIDE + 2 * FRAME + GAP


def drawn(*cells: Cell, title: str | None = None) -> np.ndarray:
    """Return a sheet's pixels."""
    return np.asarray(sheet(cells, title))


def ink(pixels: np.ndarray) -> np.ndarray:
    """Return which pixels [H, W] are not white."""
    return (pixels < 255).any(-1)


def stretches(line: np.ndarray) -> list[tuple[int, int]]:
    """Return where runs of True start and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def orange(pixels: np.ndarray) -> np.ndarray:
    return (pixels == ORANGE).all(-1)


@pytest.mark.parametrize(
    "name",
    [
        "n01440764_10042.JPEG" * 8,
        "W" * 300,
        "猫" * 40 + ".png",
        "🐱🇨🇭👩‍🔬" * 9,
        "שלום עולם " * 20,
        "a\tb\nc" * 30,
        "\udcff.png",
        "",
    ],
)
def test_captions_never_run_together(name):
    """What is long ends within its own cell, and no ink comes near the sheet's edge."""
    cells = [Cell(GREY, [name, f"true: {name}", f"taken for: {name} (72 %)"], wrong=k % 2 == 0) for k in range(13)]
    marks = ink(drawn(*cells, title="two\nlines"))
    assert not marks[:GAP].any()
    assert not marks[-GAP // 2 :].any()
    below = marks[GAP * 2 + 40 :]  # under the title
    columns = stretches(below.any(0))
    cell = [GAP + FRAME + number * STEP for number in range(6)]
    for start, end in columns:
        assert any(left - FRAME <= start < end <= left + SIDE + FRAME for left in cell)
    assert not marks[:, : GAP - 1].any()
    rows = stretches(below.any(1))
    assert len(rows) >= 3 * (2 if name else 1)  # each line of a caption by itself, under each row of pictures


def test_the_middle_of_a_long_name_is_left_out():
    """Its ends are what tells files apart: other ends are other pixels, another middle is none."""
    long = "n01440764_{}_10042.JPEG"
    one, same = (drawn(Cell(GREY, [long.format("x" * 20 + middle * 40 + "x" * 20)])) for middle in "xy")
    other = drawn(Cell(GREY, [long.format("x" * 80).replace("42.", "43.")]))
    assert (one == same).all()
    assert (one != other).any()
    first = drawn(Cell(GREY, ["m" + long.format("x" * 80)]))
    assert (one != first).any()


def test_names_that_the_font_lacks_are_told_apart():
    cat, dog = (drawn(Cell(GREY, [name])) for name in ("猫.png", "狗.png"))
    assert (cat != dog).any()
    escaped = drawn(Cell(GREY, [r"\u732b.png"]))
    assert (cat == escaped).all()


def test_what_is_wrong_is_framed_and_has_a_sign():
    cells = [Cell(GREY, ["name"], wrong=wrong) for wrong in (True, False)]
    pixels = drawn(*cells)
    first, second = pixels[:, GAP : GAP + STEP - GAP], pixels[:, GAP + STEP : GAP + 2 * STEP - GAP]
    frame = orange(first)
    assert not orange(second).any()
    assert frame[GAP : GAP + FRAME].all()
    assert frame.sum() == (SIDE + 2 * FRAME) ** 2 - SIDE**2
    signs = [stretches(ink(half)[GAP + SIDE + 2 * FRAME :].any(0)) for half in (first, second)]
    assert signs[0][-1][1] > signs[1][-1][1]  # the same name further right, behind a sign


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (64, 64), (48, 100), (500, 375), (3, 900), (900, 3), (1, 1)])
def test_pictures_of_any_size_keep_their_aspect(shape):
    height, width = shape
    pixels = drawn(Cell(np.full((*shape, 3), 90, np.uint8), ["name"], wrong=True))
    rows, columns = np.nonzero((pixels[: GAP + 2 * FRAME + SIDE] == 90).all(-1))
    found = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert found == tuple(max(1, SIDE * side // max(shape)) for side in (height, width))
    assert rows.max() == GAP + FRAME + SIDE - 1  # on its caption
    assert columns.min() == GAP + FRAME


def test_small_pictures_stay_crisp():
    board = np.indices((8, 8)).sum(0)[..., None].repeat(3, -1) % 2 * 200
    shown = drawn(Cell(board.astype(np.uint8), []))[GAP + FRAME :, GAP + FRAME :][:SIDE, :SIDE]
    assert (shown == board.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)).all()


@pytest.mark.parametrize("shape", [(64, 64), (50, 100), (375, 250)])
@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_heat_lies_where_it_belongs(shape, corner):
    heat = np.full((4, 4), -3.0)
    heat[corner] = 0.001  # by its own maximum
    picture = np.full((*shape, 3), 90, np.uint8)
    plain = drawn(Cell(picture, ["name"], wrong=True))
    hot = drawn(Cell(picture, ["name"], wrong=True, heat=heat))
    inside = (plain == 90).all(-1)
    assert (plain[~inside] == hot[~inside]).all()
    rows, columns = np.nonzero(inside)
    part = hot[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(int).sum(-1)
    corners = {(row, column): part[row, column] for row in (0, -1) for column in (0, -1)}
    assert corners.pop(corner) == part.max() > 400
    assert set(corners.values()) == {3 * 90}  # the picture itself
    light = np.argwhere(part > (part.max() + 3 * 90) / 2)
    assert len(light) < part.size / 8


@pytest.mark.parametrize("heat", [np.zeros((7, 7)), np.full((7, 7), -1.0), np.full((7, 7), np.nan)])
def test_a_map_without_heat_hides_nothing(heat):
    pixels = drawn(Cell(GREY, [], heat=heat))[GAP + FRAME :, GAP + FRAME :][:SIDE, :SIDE]
    assert (pixels == 90).all()


def test_hundreds_of_cells_make_a_page_that_fits_a_screen():
    height, width, _ = drawn(*[Cell(GREY, ["name", "true: cat", "taken for: dog (72 %)"])] * 200).shape
    assert 0.5 < height / width < 1.5


def test_a_title_wider_than_the_pictures_is_whole():
    pixels = ink(drawn(Cell(GREY, ["name"]), title="of many words " * 20))
    assert not pixels[:, -GAP // 2 :].any()
    assert drawn(title="nothing").shape[0] < 60
    assert ink(drawn(title="nothing")).any()
