"""What of an image is evaluated: torchvision's pixels, and views that keep their shapes."""

import io

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode

from reslightning.data import decode
from reslightning.data.views import Sizes, center, grouped, scaled


@pytest.mark.parametrize(
    "sizes", [Sizes(256, 224, "bilinear"), Sizes(232, 224, "bilinear"), Sizes(235, 224, "bicubic")]
)
def test_evaluation_has_torchvision_s_pixels(sample, sizes):
    how = transforms.Resize(sizes.resize, InterpolationMode(sizes.interpolation))
    plain = transforms.Compose([how, transforms.CenterCrop(sizes.size)])
    for content in sample[::4]:
        expected = np.asarray(plain(Image.open(io.BytesIO(content)).convert("RGB")))
        assert np.array_equal(center(decode.decode(content), sizes), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (300, 7), (56, 64), (64, 64)])
def test_an_image_of_any_shape_is_scaled_as_torchvision_does(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    expected = np.asarray(transforms.Resize(64)(Image.fromarray(pixels)))
    assert np.array_equal(scaled(pixels, 64, "bilinear"), expected)


def test_views_of_one_shape_are_together_and_none_is_changed():
    shapes = [[(4, 6), (8, 6)], [(6, 4), (4, 6)], [(8, 6), (8, 6)]]
    chance = np.random.default_rng(0)
    batch = [[chance.integers(0, 256, (*shape, 3), np.uint8) for shape in image] for image in shapes]
    views = grouped(batch)
    assert [tuple(images.shape) for images in views.images] == [(2, 3, 4, 6), (3, 3, 8, 6), (1, 3, 6, 4)]
    assert [owners.tolist() for owners in views.owners] == [[0, 1], [0, 2, 2], [1]]
    found = [view.permute(1, 2, 0).numpy() for images in views.images for view in images]
    order = [batch[0][0], batch[1][1], batch[0][1], batch[2][0], batch[2][1], batch[1][0]]
    assert all(np.array_equal(one, other) for one, other in zip(found, order, strict=True))
