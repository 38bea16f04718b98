"""Noise stands in for images of any size and number of classes."""

import pytest
import torch

from reslightning.commands.bench_synthetic import DIFFERENT, IMAGES, Synthetic
from reslightning.errors import UserError


def test_batches_are_noise_that_repeats():
    data = Synthetic(size=8, classes=7, batch_size=4)
    data.setup()
    content = torch.tensor([0, 1, DIFFERENT, IMAGES - 1])
    images, labels, indices = data.pixels(content, "train", 3)
    assert images.shape == (4, 3, 8, 8)
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    assert labels.tolist() == [0, 1, DIFFERENT % 7, (IMAGES - 1) % 7] == data.labels("train")[content].tolist()
    assert torch.equal(indices, content)
    assert data.n_samples("train") == IMAGES
    assert data.labels("val").unique().tolist() == list(range(7))
    normalised, _ = data.training_batch(content, 0)
    assert normalised.abs().max() <= 1


@pytest.mark.parametrize(("given", "said"), [({"size": 0}, "data.size=0"), ({"classes": 1}, "data.classes=1")])
def test_what_there_cannot_be_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        Synthetic(**given)
