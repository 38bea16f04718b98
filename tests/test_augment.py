"""Augmentations against their plain definitions, draw by draw."""

import pytest
import torch
import torch.nn.functional as F

from reslightning import augment


def test_draws_are_a_function_of_seed_epoch_and_sample():
    samples = torch.arange(1000)
    first = augment.draws(0, 3, samples, 4)
    assert torch.equal(first[[5, 7]], augment.draws(0, 3, torch.tensor([5, 7]), 4))
    for other in (augment.draws(1, 3, samples, 4), augment.draws(0, 4, samples, 4)):
        assert not (first == other).any(1).any()
    assert first.min() >= 0
    assert first.max() < 2**31


@pytest.mark.parametrize("bins", [2, 9])
def test_draws_are_uniform_and_independent(bins):
    draws = augment.draws(0, 0, torch.arange(90_000), 2) % bins
    joint = torch.bincount(draws[:, 0] * bins + draws[:, 1], minlength=bins**2).double()
    expected = 90_000 / bins**2
    chi_squared = ((joint - expected) ** 2 / expected).sum().item()
    degrees = bins**2 - 1
    assert abs(chi_squared - degrees) < 4 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_crop_is_a_window_of_the_padded_image(mode):
    images = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    draw = augment.draws(0, 0, torch.arange(50), 2)
    cropped = augment.random_crop(augment.pad(images, 3, mode), draw, 3)
    padded = F.pad(images.float(), (3, 3, 3, 3), mode="reflect" if mode == "reflect" else "constant").byte()
    places = set()
    for i in range(50):
        top, left = (int(d) % 7 for d in draw[i])
        places.add((top, left))
        assert torch.equal(cropped[i], padded[i, :, top : top + 8, left : left + 8])
    assert len(places) > 20


def test_flip_mirrors_where_the_draw_is_odd():
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    flipped = augment.random_flip(images, torch.tensor([0, 1, 2, 3]))
    for i, odd in enumerate([False, True, False, True]):
        assert torch.equal(flipped[i], images[i].flip(-1) if odd else images[i])


def test_cutout_blanks_a_square_clipped_at_the_border():
    images = torch.ones(3, 3, 8, 8)
    cut = augment.cutout(images, torch.tensor([[4, 4], [0, 0], [7, 3]]), 4)
    assert [int((image == 0).sum()) // 3 for image in cut] == [16, 4, 12]
    assert (cut[0, :, 2:6, 2:6] == 0).all()
    assert augment.cutout(images, torch.zeros(3, 2), 0) is images


def test_normalize():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    expected = (images.float() / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(augment.normalize(images, mean, std), expected, rtol=1e-5, atol=1e-6)
