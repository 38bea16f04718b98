"""Small images, all of them in memory as bytes, on the GPU where there is one."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from reslightning.data import augmentations
from reslightning.data.base import CROP, CUTOUT, DataModule
from reslightning.data.options import keep
from reslightning.data.registry import Split
from reslightning.data.sampler import EvalSampler, TrainSampler
from reslightning.data.twins import same_pixels, shared
from reslightning.data.workers import Loader
from reslightning.errors import UserError
from reslightning.ranges import Range


class InMemory(DataModule):
    """Images of one size in memory: the loader moves indices, and all else is done on the batch's device.

    Options as DataModule, a first_size being less than the images' own and a multiple of the network's stride, and:

    Args:
        crop_padding: pixels padded on each side before the random crop; 0 crops nothing.
        padding_mode: what the padding holds, zeros or the reflected image.
        cutout: side in pixels of a square blanked out of training images (arXiv:1708.04552).
        download: fetch the data where it is missing, checksummed, on one process.
    """

    size_step = 8

    def __init__(
        self,
        crop_padding: Annotated[int, Range("0 or more")] = 4,
        padding_mode: augmentations.PaddingMode = "zeros",
        cutout: Annotated[int, Range("0 or more")] = 0,
        download: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        keep(self, locals())
        self._images: dict[str, Tensor] = {}
        self._labels: dict[str, Tensor] = {}
        self._content: dict[str, Any] = {}
        self._positions: dict[str, Tensor] = {}  # in the official part, of what is divided

    @abstractmethod
    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return one official part: images [N, 3, H, W], uint8, and labels [N], int64.

        Raises:
            UserError: files are missing, truncated or wrongly sized.
        """

    def check_options(self) -> None:
        """Raise UserError for option values that mean nothing."""
        super().check_options()
        if self.padding_mode == "reflect" and self.crop_padding >= self.image_size:
            raise UserError(
                f"data.crop_padding={self.crop_padding} cannot be reflected; allowed: less than "
                f"the image's {self.image_size} pixels"
            )

    def setup(self, stage: str | None = None) -> None:
        """Read the data once and divide it; later calls do nothing."""
        if self._images:
            return
        self.stage()
        images, labels = self.load(train=True)
        test = self.load(train=False)
        self._content = self._describe({"train": (images, labels), "test": test})
        held_out, kept = self.hold_out(len(images))
        self._positions = {"train": kept, "val": held_out} if self.val_split else {}
        if self.val_split:
            self._images["val"], self._labels["val"] = images[held_out], labels[held_out]
            images, labels = images[kept], labels[kept]
        # Padded once here: a crop then costs the same whatever the padding holds.
        self._images["train"] = augmentations.pad(images, self.crop_padding, self.padding_mode)
        self._labels["train"] = labels
        self._images["test"], self._labels["test"] = test
        if not self.val_split:
            self._images["val"], self._labels["val"] = test

    @property
    def _inner(self) -> slice:
        """Where in a padded training image the image is."""
        return slice(self.crop_padding, self.crop_padding + self.image_size)

    def _describe(self, parts: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
        digest = hashlib.sha256(json.dumps(list(self.class_names)).encode())
        for images, labels in parts.values():
            digest.update(images.contiguous().numpy().data)
            digest.update(labels.contiguous().numpy().data)
        counts = {split: len(labels) for split, (_, labels) in parts.items()}
        classes = list(self.class_names)
        return {"digest": digest.hexdigest()[:16], "classes": classes, "counts": counts, "first": {}}

    def content(self) -> dict[str, Any]:
        """Return what the data is: the digest is that of every pixel and label."""
        self.setup()
        return self._content

    def notices(self) -> list[str]:
        """Return a line for each two parts that have images in common."""
        self.setup()
        parts = {"train": self._images["train"][:, :, self._inner, self._inner], "test": self._images["test"]}
        if self.val_split:
            parts["val"] = self._images["val"]
        twins = same_pixels({split: images.cpu().numpy() for split, images in parts.items()})
        return shared(twins, lambda split, position: f"image {position} of {split}")

    def position(self, split: Split, index: int) -> int:
        """Return where in its official part an image stands."""
        return int(self._positions[split][index]) if split in self._positions else index

    def labels(self, split: Split) -> Tensor:
        """Return a split's labels [N], int64."""
        self.setup()
        return self._labels[split]

    def loader(self, split: Split, sampler: TrainSampler | EvalSampler, batch_size: int) -> DataLoader[int]:
        """Return a loader of index batches [B], int64: they are light, so that no worker is fastest."""
        return Loader(
            range(self.n_samples(split)),  # type: ignore[arg-type]
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers or 0,
            collate_fn=torch.tensor,
            worker_init_fn=self.worker_init,
        )

    def picture(self, split: Split, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return an image [height, width, 3], as it is."""
        self.setup()
        return self._images[split][index].permute(1, 2, 0).cpu().numpy()

    def indices(self, content: Tensor) -> Tensor:
        """Return the batch: it is indices."""
        return content

    def pixels(self, content: Tensor, split: Split, epoch: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return images [B, 3, H, W], uint8, labels [B] and indices [B]; in training cropped, and scaled."""
        self.setup()
        if self._labels[split].device != content.device:
            for part in (self._images, self._labels):
                part[split] = part[split].to(content.device)
        images = self._images[split].index_select(0, content)
        if epoch is None and split == "train":
            images = images[:, :, self._inner, self._inner]
        elif epoch is not None:
            images = augmentations.random_crop(images, self._draws(epoch, content, CROP, 2), self.crop_padding)
            images = augmentations.scale(images, self.size_at(epoch))
        return images, self._labels[split].index_select(0, content), content

    def _finish(self, images: Tensor, epoch: int, indices: Tensor) -> Tensor:
        return (
            augmentations.cutout(images, self._draws(epoch, indices, CUTOUT, 2), self.cutout) if self.cutout else images
        )
