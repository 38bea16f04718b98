"""Decoding and cropping: whole images as Pillow reads them, in training torchvision's distribution of crops."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from reslightning.data import decode
from tests.images import jpeg


def draws(seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(2**31) for _ in range(decode.CROP_DRAWS)]


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def encoded(kind: str, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg(3, 301, 223))).convert(mode).save(file, kind, **options)
    return file.getvalue()


ODD = {
    "progressive": encoded("JPEG", progressive=True),
    "grey": encoded("JPEG", "L"),
    "CMYK": encoded("JPEG", "CMYK"),
    "PNG": encoded("PNG"),
    "PNG with a palette": encoded("PNG", "P"),
    "with restart markers": encoded("JPEG", restart_marker_rows=1),
    "4:4:4": encoded("JPEG", subsampling=0),
    "bytes behind the end": encoded("JPEG") + b"trailing",
    "WebP": encoded("WEBP", lossless=True),
}


@pytest.mark.parametrize("name", ODD)
def test_whatever_pillow_opens(name):
    content = ODD[name]
    assert np.array_equal(decode.decode(content), by_pillow(content))
    assert decode.cropped(content, draws(1), 64).shape == (64, 64, 3)


@pytest.mark.parametrize("name", ["JPEG", "progressive", "PNG"])
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.97])
def test_a_cut_file_is_corrupt_wherever_the_crop_lies(name, share):
    content = encoded("JPEG") if name == "JPEG" else ODD[name]
    cut = content[: int(len(content) * share)]
    for work in (
        lambda: decode.cropped(cut, draws(2), 64),
        lambda: decode.decode(cut),
    ):
        with pytest.raises(decode.CorruptImageError):
            work()


def test_headers_that_mislead():
    """Fill bytes before a marker are legal; a length beyond the file and a height of 0 are not."""
    whole = jpeg(1, 300, 200)
    filled = whole[:2] + b"\xff" + whole[2:]
    assert np.array_equal(decode.decode(filled), by_pillow(filled))
    assert np.array_equal(decode.cropped(filled, draws(1), 400), decode.cropped(whole, draws(1), 400))
    frame = whole.index(b"\xff\xc0")
    for corrupt in (
        whole[:4] + b"\xff\xff" + whole[6:],
        whole[: frame + 5] + b"\0\0" + whole[frame + 7 :],
        whole[: frame + 7] + b"\0\0" + whole[frame + 9 :],
    ):
        with pytest.raises(decode.CorruptImageError):
            decode.cropped(corrupt, draws(1), 64)


def test_what_is_decoded_in_part_has_the_pixels_of_the_whole():
    """Rows below the crop are left out, also behind an embedded thumbnail's header."""
    exif = Image.Exif()
    exif[0x010E] = "\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03"  # looks like a frame's header
    for number, options in enumerate([{}, {"subsampling": 0}, {"subsampling": 1}, {"exif": exif}]):
        content = jpeg(number, 400, 300, **options)
        whole = decode.decode(content)
        for seed in range(20):
            part, box = decode.decode_part(content, draws(seed), 400)  # no crop is scaled down
            rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
            assert np.array_equal(part[rows, columns], whole[rows, columns])
            assert box == decode.random_resized_crop_box(300, 400, draws(seed))


def test_scaling_in_the_decoder_stays_near_an_antialiased_resize():
    content = jpeg(7, 800, 600)
    for seed in range(10):
        box = decode.random_resized_crop_box(600, 800, draws(seed))
        part = by_pillow(content)[box.top : box.top + box.height, box.left : box.left + box.width]
        expected = np.asarray(Image.fromarray(part).resize((96, 96), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(decode.cropped(content, draws(seed), 96) - expected).mean() < 3


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (200, 1500)])
def test_crops_are_distributed_as_torchvision_s(shape):
    """Two-sample Kolmogorov-Smirnov tests on area, ratio and place; the last shape's crops often do not fit."""
    from scipy.stats import ks_2samp
    from torch import empty, manual_seed

    manual_seed(0)
    image = empty(3, *shape)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, list(decode.SCALE), list(decode.RATIO)) for _ in range(4000)]
    )
    ours = np.array([decode.random_resized_crop_box(*shape, draws(seed)) for seed in range(4000)])
    for of in (
        lambda boxes: boxes[:, 2] * boxes[:, 3],
        lambda boxes: boxes[:, 3] / boxes[:, 2],
        lambda boxes: boxes[:, 0],
        lambda boxes: boxes[:, 1],
    ):
        assert ks_2samp(of(ours), of(theirs)).pvalue > 1e-3
    assert (ours[:, 0] + ours[:, 2] <= shape[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= shape[1]).all()
