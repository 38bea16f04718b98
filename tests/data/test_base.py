"""Splits, batch sizes and batches of the data modules that hold images in memory."""

import pytest
import torch

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
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Digits(**options).check_training()
