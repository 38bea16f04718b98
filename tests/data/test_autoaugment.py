"""TrivialAugment and RandAugment do to a batch what torchvision does to each of its images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import InterpolationMode

from reslightning.data import autoaugment

NAMES = {
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    """62 images: noise, smooth, and one of a single grey."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (30, 40, 48, 3), np.uint8)
    smooth = [np.array(Image.fromarray(image[:5, :6]).resize((48, 40))) for image in noise]
    flat = np.full((2, 40, 48, 3), 77, np.uint8)
    return torch.from_numpy(np.concatenate([noise, np.stack(smooth), flat])).permute(0, 3, 1, 2)


def theirs(image: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    value = int(magnitude) if name == "posterize" else float(magnitude)
    return _apply_op(image, NAMES[name], value, InterpolationMode.NEAREST, None)


@pytest.mark.parametrize("space", ["trivial", "rand"])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_s_pixels_are_torchvision_s(batch, space, name):
    values, signed = autoaugment._magnitudes(space, *batch.shape[-2:])[name]
    magnitude = values[torch.arange(len(batch)) % autoaugment.BINS]
    if signed:
        magnitude = torch.where(torch.arange(len(batch)) < autoaugment.BINS, magnitude, -magnitude)
    expected = torch.stack([theirs(*pair) for pair in zip(batch, [name] * len(batch), magnitude, strict=True)])
    assert torch.equal(autoaugment.OPERATIONS[name](batch, magnitude), expected)


@pytest.mark.parametrize(("space", "operations"), [("trivial", 1), ("rand", 2)])
def test_every_image_gets_its_own_operation(batch, space, operations):
    draw = torch.randint(0, 2**31, (len(batch), autoaugment.DRAWS), generator=torch.Generator().manual_seed(1))
    done = autoaugment.apply(space, batch, draw)
    names = list(autoaugment._magnitudes(space, 40, 48))
    for image, row, got in zip(batch, draw.tolist(), done, strict=True):
        expected = image
        for kind, strength, sign in zip(*[iter(row[: 3 * operations])] * 3, strict=True):
            name = names[kind % len(names)]
            if name == "identity":
                continue
            values, signed = autoaugment._magnitudes(space, 40, 48)[name]
            value = values[strength % autoaugment.BINS if space == "trivial" else autoaugment.RAND_MAGNITUDE]
            expected = theirs(expected, name, -value if signed and sign % 2 else value)
        assert torch.equal(got, expected)
    assert torch.equal(autoaugment.apply(space, batch[5:9], draw[5:9]), done[5:9])
