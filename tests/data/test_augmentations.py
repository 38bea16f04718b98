"""Augmentations against their plain definitions, draw by draw."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reslightning.data import augmentations


def test_draws_are_a_function_of_seed_epoch_and_sample():
    samples = torch.arange(1000)
    first = augmentations.draws(0, 3, samples, 4)
    assert torch.equal(first[[5, 7]], augmentations.draws(0, 3, torch.tensor([5, 7]), 4))
    for other in (augmentations.draws(1, 3, samples, 4), augmentations.draws(0, 4, samples, 4)):
        assert not (first == other).any(1).any()
    assert first.min() >= 0
    assert first.max() < 2**31


@pytest.mark.parametrize("bins", [2, 9])
def test_draws_are_uniform_and_independent(bins):
    draws = augmentations.draws(0, 0, torch.arange(90_000), 2) % bins
    joint = torch.bincount(draws[:, 0] * bins + draws[:, 1], minlength=bins**2).double()
    expected = 90_000 / bins**2
    chi_squared = ((joint - expected) ** 2 / expected).sum().item()
    degrees = bins**2 - 1
    assert abs(chi_squared - degrees) < 4 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_crop_is_a_window_of_the_padded_image(mode):
    images = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    draw = augmentations.draws(0, 0, torch.arange(50), 2)
    cropped = augmentations.random_crop(augmentations.pad(images, 3, mode), draw, 3)
    padded = F.pad(images.float(), (3, 3, 3, 3), mode="reflect" if mode == "reflect" else "constant").byte()
    places = set()
    for i in range(50):
        top, left = (int(d) % 7 for d in draw[i])
        places.add((top, left))
        assert torch.equal(cropped[i], padded[i, :, top : top + 8, left : left + 8])
    assert len(places) > 20


def test_flip_mirrors_where_the_draw_is_odd():
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        flipped = augmentations.flip_(images.clone(memory_format=memory_format), torch.tensor([0, 1, 2, 3]))
        assert flipped.is_contiguous(memory_format=memory_format)
        for i, odd in enumerate([False, True, False, True]):
            assert torch.equal(flipped[i], images[i].flip(-1) if odd else images[i])
        elsewhere = augmentations._mirrored(images.clone(memory_format=memory_format), torch.arange(4) % 2 == 1)
        assert torch.equal(elsewhere, flipped)


def test_cutout_blanks_a_square_clipped_at_the_border():
    images = torch.ones(3, 3, 8, 8)
    cut = augmentations.cutout(images, torch.tensor([[4, 4], [0, 0], [7, 3]]), 4)
    assert [int((image == 0).sum()) // 3 for image in cut] == [16, 4, 12]
    assert (cut[0, :, 2:6, 2:6] == 0).all()
    assert augmentations.cutout(images, torch.zeros(3, 2), 0) is images


def test_normalize():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    expected = (images.float() / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(augmentations.normalize(images, mean, std), expected, rtol=1e-5, atol=1e-6)


def test_normalize_with_channels_last_gives_the_same_bits():
    images = torch.randint(0, 256, (4, 3, 6, 5), dtype=torch.uint8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    last = augmentations.normalize(images.contiguous(memory_format=torch.channels_last), mean, std)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, augmentations.normalize(images, mean, std))


def test_random_erasing_is_distributed_as_torchvision_s():
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomErasing

    torch.manual_seed(0)
    ones = torch.ones(3000, 1, 24, 32)
    draw = augmentations.draws(0, 0, torch.arange(3000), augmentations.ERASING_DRAWS)
    erased = augmentations.random_erasing(ones, draw, 0.5)
    theirs = torch.stack([RandomErasing(p=0.5)(image) for image in ones])
    assert torch.equal(augmentations.random_erasing(ones[7:9], draw[7:9], 0.5), erased[7:9])
    assert torch.equal(augmentations.random_erasing(ones, draw, 0.0), ones)
    areas, expected = ((images == 0).sum((1, 2, 3)) for images in (erased, theirs))
    assert (areas > 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert ks_2samp(areas[areas > 0], expected[expected > 0]).pvalue > 1e-3
    heights, tall = ((images == 0).any(3).sum((1, 2)) for images in (erased, theirs))
    assert ks_2samp(heights[heights > 0], tall[tall > 0]).pvalue > 1e-3
    tops, their_tops = ((images == 0).any(3).float().argmax(2)[:, 0] for images in (erased, theirs))
    assert ks_2samp(tops[heights > 0], their_tops[tall > 0]).pvalue > 1e-3


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixing_keeps_the_targets_shares_of_the_pixels(mixup, cutmix):
    """Constant images: what a target says of a class is what its pixels say of it."""
    levels = torch.tensor([0.0, 1.0, 10.0, 100.0])
    images = levels[:, None, None, None].expand(4, 3, 16, 24)
    targets = torch.eye(4)
    shares = []
    for seed in range(60):
        mixed, soft = augmentations.mix(images, targets, np.random.default_rng(seed), mixup=mixup, cutmix=cutmix)
        torch.testing.assert_close(soft.sum(1), torch.ones(4))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ levels, rtol=1e-4, atol=1e-4)
        pieces = len(mixed[3, 0].unique())
        assert pieces == 1 if not cutmix else pieces in (1, 2)
        shares.append(soft[0, 0].item())
        again, _ = augmentations.mix(images, targets, np.random.default_rng(seed), mixup=mixup, cutmix=cutmix)
        assert torch.equal(mixed, again)
    assert min(shares) < 0.3
    assert max(shares) > 0.7
