"""Splits, batch sizes and batches of the data modules that hold images in memory."""

import numpy as np
import pytest
import torch
from PIL import Image

from reslightning.data import Digits
from reslightning.errors import UserError


def test_digits():
    data = Digits()
    assert [data.n_samples(split) for split in ("train", "val", "test")] == [1438, 359, 359]
    assert data.val_source == "test"
    images, _ = data.load(train=True)
    assert images.shape == (1438, 3, 32, 32)
    assert images.dtype == torch.uint8
    for measured, own in ((images.float().mean() / 255, data.own_mean), (images.float().std() / 255, data.own_std)):
        assert measured.item() == pytest.approx(own[0], abs=0.02)


def test_a_held_out_split_is_chosen_by_the_seed():
    first, same, other = (Digits(val_split=100, seed=seed) for seed in (0, 0, 1))
    assert first.val_source == "held-out"
    assert [first.n_samples(split) for split in ("train", "val", "test")] == [1338, 100, 359]
    assert torch.equal(first.labels("val"), same.labels("val"))
    assert not torch.equal(first.labels("val"), other.labels("val"))


def test_training_batches_are_functions_of_seed_epoch_and_sample():
    data = Digits(padding_mode="reflect", flip=True, cutout=8)
    indices = torch.tensor([3, 500, 7])
    images, labels = data.training_batch(indices, 2)
    again, _ = Digits(padding_mode="reflect", flip=True, cutout=8).training_batch(indices[1:], 2)
    assert torch.equal(images[1:], again)
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.float32
    assert torch.equal(labels, data.labels("train")[indices])
    assert not torch.equal(images, data.training_batch(indices, 3)[0])


def test_without_augmentation_a_training_batch_is_the_images():
    data = Digits(crop_padding=0)
    images, _ = data.load(train=True)
    batch, _ = data.training_batch(torch.tensor([4]), 0)
    mean, std = data.own_mean[0], data.own_std[0]
    torch.testing.assert_close(batch[0], (images[4].float() / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_alternating_flips_show_each_image_both_ways_in_any_two_epochs():
    indices = torch.arange(400)
    images, _ = Digits(crop_padding=0).training_batch(indices, 0)
    data = Digits(crop_padding=0, flip="alternating")
    shown = [data.training_batch(indices, epoch)[0] for epoch in range(4)]
    assert torch.equal(shown[0], Digits(crop_padding=0, flip=True).training_batch(indices, 0)[0])
    assert torch.equal(shown[1], shown[0].flip(-1))
    assert torch.equal(shown[2], shown[0])
    assert torch.equal(shown[3], shown[1])
    as_they_are = sum(torch.equal(one, image) for one, image in zip(shown[0], images, strict=True))
    assert 150 < as_they_are < 250


def test_small_images_are_scaled_until_they_have_grown():
    data = Digits(crop_padding=0, first_size=16, grow_epochs=[1, 3])
    assert [data.size_at(epoch) for epoch in range(5)] == [16, 16, 24, 32, 32]
    index = torch.tensor([4])
    whole = data.picture("train", 4)
    for epoch, size in ((1, 16), (2, 24), (3, 32)):
        batch, _ = data.training_batch(index, epoch)
        scaled = np.asarray(Image.fromarray(whole).resize((size, size), Image.Resampling.BILINEAR))
        found = (batch[0] * data.std[:, None, None] + data.mean[:, None, None]) * 255
        assert found.shape == (3, size, size)
        assert np.abs(found.permute(1, 2, 0).numpy() - scaled).max() < 1.01  # Pillow reckons in whole numbers
    assert data.evaluation_batch(index, "test")[0].shape == (1, 3, 32, 32)
    assert data.evaluation_batch(index, "train")[0].shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("devices", "accumulated", "said"),
    [(3, 1, "not divisible by 3 devices; use 99 or 102"), (4, 2, "2 accumulated micro-batches; use 96 or 104")],
)
def test_batches_that_devices_cannot_share(devices, accumulated, said):
    with pytest.raises(UserError, match=said):
        Digits(batch_size=100).micro_batch_size(devices, accumulated)
    assert Digits(batch_size=100).micro_batch_size(5, 2) == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1439}, "use at most 1438"),
        ({"val_split": 1438}, "leaves no training images"),
        ({"val_split": -1}, "val_split=-1"),
        ({"mean": [0.5]}, "one per channel"),
        ({"std": [0.5, 0.0, 0.5]}, "fractions in"),
        ({"crop_padding": 32, "padding_mode": "reflect"}, "cannot be reflected"),
        ({"flip": "random"}, "allowed: true or false, alternating, null"),
        ({"first_size": 40, "grow_epochs": [0, 2]}, "less than the 32 pixels that training images grow to"),
        ({"grow_epochs": [0, 2]}, "belong together"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Digits(**options).check_training()
