"""TrivialAugment and RandAugment do to a batch what torchvision does to each of its images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandAugment, TrivialAugmentWide

from reslightning.data import autoaugment

KINDS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
THEIRS = {"trivial": TrivialAugmentWide(), "rand": RandAugment()}


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    """62 images: noise, smooth, and one of a single grey."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (30, 40, 48, 3), np.uint8)
    smooth = [np.array(Image.fromarray(image[:5, :6]).resize((48, 40))) for image in noise]
    flat = np.full((2, 40, 48, 3), 77, np.uint8)
    return torch.from_numpy(np.concatenate([noise, np.stack(smooth), flat])).permute(0, 3, 1, 2)


@pytest.fixture
def theirs(monkeypatch):
    """torchvision's transform of every image, with rows of (kind, magnitude, sign, ...) for its random numbers."""

    def transform(space, images, draw):
        done = []
        for image, row in zip(images, draw.tolist(), strict=True):
            operations, now = zip(*[iter(row)] * 3, strict=True), {}

            def randint(high, size, operations=operations, now=now, **_):
                if high == len(KINDS):
                    now.update(zip((len(KINDS), 31, 2), next(operations), strict=True))
                return torch.tensor(now[high] % high).expand(size)

            with monkeypatch.context() as patch:
                patch.setattr(torch, "randint", randint)
                done.append(THEIRS[space](image))
        return torch.stack(done)

    return transform


@pytest.mark.parametrize("space", THEIRS)
@pytest.mark.parametrize("name", KINDS)
def test_an_operation_s_pixels_are_torchvision_s(batch, theirs, space, name):
    """With each of its magnitudes, in both directions."""
    number = torch.arange(len(batch))
    draw = torch.zeros(len(batch), autoaugment.DRAWS, dtype=torch.long)
    draw[:, 0], draw[:, 1], draw[:, 2] = KINDS.index(name), number, number // 31
    assert torch.equal(autoaugment.apply(space, batch, draw), theirs(space, batch, draw))


@pytest.mark.parametrize("space", THEIRS)
def test_every_image_gets_its_own_operation(batch, theirs, space):
    draw = torch.randint(0, 2**31, (len(batch), autoaugment.DRAWS), generator=torch.Generator().manual_seed(1))
    done = autoaugment.apply(space, batch, draw)
    assert torch.equal(done, theirs(space, batch, draw))
    assert torch.equal(autoaugment.apply(space, batch[5:9], draw[5:9]), done[5:9])
