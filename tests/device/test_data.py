"""Whatever is done to images is done without waiting for their device."""

import inspect
from typing import get_args

import numpy as np
import pytest
import torch

from reslightning.data import ImageFolder, augmentations, autoaugment, decode
from reslightning.data.base import DataModule
from reslightning.data.memory import InMemory
from tests.device.pretended import CUDA, steady
from tests.device.training import Training, indices, noise

# Every option of images in memory that says what is done to a batch. A new one needs its cases here, or a word below.
CASES = {
    "flip": (True, False, "alternating"),
    "first_size": (4,),
    "crop_padding": (0, 2),
    "padding_mode": get_args(augmentations.PaddingMode),
    "cutout": (3,),
    "policy": get_args(autoaugment.Name),
    "erasing": (0.5,),
    "mixup": (0.4,),
    "cutmix": (1.0,),
}
# Where and how much is read, and what images are normalised by, which is done in every case.
OTHERS = {"grow_epochs", "root", "batch_size", "num_workers", "stage_to", "val_split", "mean", "std"} | {
    "seed",
    "download",
}


def options(*kinds):
    named = {name for kind in kinds for name in inspect.signature(kind).parameters}
    return named - {"options"}


def test_every_option_has_its_cases():
    assert options(DataModule, InMemory) == set(CASES) | OTHERS


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CASES.items() for value in values])
def test_an_augmentation_waits_for_nothing(device, operations, name, value):
    grows = {"grow_epochs": [0, 1]} if name == "first_size" else {}
    training = Training(None, noise(**({"flip": False} | {name: value} | grows)))
    training.data.trainer = training.trainer
    training.transferred(indices(0, 1))  # the images, and what they are normalised by, come to the device
    before = device.copied
    with steady(device):
        images, labels, numbers = training.transferred(indices(1, 200))
    # The indices; what is drawn of them is computed on the device, but for operations, which the host chooses.
    assert device.copied == before + 1 or name == "policy"
    assert (images.device, labels.device, numbers.device) == (CUDA,) * 3
    assert images.shape == (200, 3, *[value if name == "first_size" else 8] * 2)
    assert labels.shape == ((200, 7) if name in ("mixup", "cutmix") else (200,))
    assert operations == (set(autoaugment.OPERATIONS) if name == "policy" else set())


@pytest.fixture
def operations(monkeypatch):
    """The operations of policies that were done."""
    done = set()
    for name, operation in autoaugment.OPERATIONS.items():

        def noted(images, magnitudes, name=name, operation=operation):
            done.add(name)
            return operation(images, magnitudes)

        monkeypatch.setitem(autoaugment.OPERATIONS, name, noted)
    return done


def test_files_with_their_channels_last_are_mirrored_without_waiting(device):
    data = ImageFolder(train_size=16, flip=True)
    training = Training(None, data)
    data.trainer = training.trainer
    images = torch.zeros(4, 16, 16, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    batch = images, torch.zeros(4, dtype=torch.int64), indices(0, 4), []
    training.transferred(batch)
    with steady(device):
        images, *_ = training.transferred(batch)
    assert images.device == CUDA
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_files_that_the_device_decodes_wait_for_nothing_but_their_decoding(device, monkeypatch):
    def pictures(encoded, device):
        return [torch.zeros(3, 40, 50, dtype=torch.uint8, device=device) for _ in encoded]

    monkeypatch.setattr("torchcodec.decoders.decode_jpeg", pictures)
    data = ImageFolder(train_size=16, flip=True, device_decode=True)
    training = Training(None, data)
    data.trainer = training.trainer
    part = np.zeros(300, np.uint8), decode.Box(1, 2, 20, 24)
    batch = [part, np.zeros((16, 16, 3), np.uint8), part], torch.zeros(3, dtype=torch.int64), indices(0, 3), []
    training.transferred(batch)
    with steady(device):
        images, *_ = training.transferred(batch)
    assert (images.device, images.shape) == (CUDA, (3, 3, 16, 16))


def test_images_are_labelled_by_a_network_s_classes_without_waiting(device):
    training = Training(None, noise())
    training.trainer.training = False
    training.data.trainer = training.trainer
    training.data.answer_in(tuple("gfedcba"), list(range(7)))
    training.transferred(indices())
    with steady(device):
        _, labels, _ = training.transferred(indices())
    assert labels.device == CUDA
