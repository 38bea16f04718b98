"""Real data so small that a test's time is the package's own, not the convolutions'."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reslightning.data.digits import Digits
from reslightning.data.folder import ImageFolder
from reslightning.data.memory import InMemory
from reslightning.data.options import keep


class Originals(Digits):
    """The handwritten digits as 8 x 8 pixels, which is what they were written in: a sixteenth of the work."""

    image_size = 8

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = super().load(train)
        return images[:, :, 1::4, 1::4].contiguous(), labels


class Thumbnails(Originals):
    """The same as 4 x 4 pixels, of which one is left in the end: a third of that work."""

    image_size = 4

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = super().load(train)
        return F.avg_pool2d(images.float(), 2).round().to(torch.uint8), labels


class Uneven(InMemory):
    """Noise of seven very uneven classes, tinted by them: 512 training and 10,001 test images."""

    num_classes = 7
    class_names = tuple("abcdefg")
    image_size = 8
    own_mean = own_std = (0.5, 0.5, 0.5)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng(train)
        labels = random.choice(7, 512 if train else 10_001, p=[0.5, 0.3, 0.1, 0.05, 0.03, 0.01, 0.01])
        images = random.integers(0, 160, (len(labels), 3, 8, 8), dtype=np.uint8)
        images[:, 0] += (labels * 13).astype(np.uint8)[:, None, None]
        return torch.from_numpy(images), torch.from_numpy(labels)


class Batches(ImageFolder):
    """Image files that are evaluated ``at_a_time``, which is no option of theirs."""

    def __init__(self, at_a_time: int = 64, **options) -> None:
        super().__init__(**options)
        keep(self, locals())

    def evaluation_batch_size(self, devices: int, accumulated: int) -> int:
        return self.at_a_time
