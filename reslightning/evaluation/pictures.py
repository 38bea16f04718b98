"""Pictures that nobody has labelled, read and decoded as a test set's are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from reslightning.data import decode
from reslightning.data.folder import ImageFolder
from reslightning.data.listing import Listing
from reslightning.data.reader import Reader
from reslightning.data.registry import Split
from reslightning.data.sampler import EvalSampler, TrainSampler
from reslightning.data.views import center, grouped
from reslightning.errors import UserError

UNLABELLED = -1


class PictureReader(Reader):
    """As ``Reader`` of a test set, but a picture that cannot be read stops nothing: a black one is in its place."""

    def __init__(self, data: Pictures, split: Split, sampler: TrainSampler | EvalSampler) -> None:
        super().__init__(data, split, sampler)
        self.planar = data.planar

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return images or Views, labels [B] and indices [B] of pictures, and why some could not be read, by index."""
        failed = list[tuple[int, str]]()
        whole = [self._whole(index, failed) for index in indices]
        images = grouped(list(map(self.views, whole))) if self.views else self._middles(whole)
        if isinstance(images, Tensor) and self.planar:
            images = images.contiguous()
        return images, self.labels[list(indices)], torch.tensor(indices), failed

    def _whole(self, index: int, failed: list[tuple[int, str]]) -> decode.Pixels:
        try:
            content = self._read(index)
            decode.check_size(content, self.sizes.resize)
            return decode.decode(content, upright=self.upright)
        except decode.ImageError as error:
            failed.append((index, error.of(self.source.describe(self.part, index)).replace("\n", ". ")))
        except UserError as error:
            failed.append((index, str(error)))
        return np.zeros((self.sizes.resize, self.sizes.resize, 3), np.uint8)


class Pictures(ImageFolder):
    """Pictures as a test set without labels, for ``Trainer.predict``; options as ImageFolder.

    Args:
        listing: where they are.
        class_names: the classes that a network chooses among.
        planar: let images lie in memory channel by channel, as those of small data sets do: another order of the same
            sums has other last bits.
    """

    reader = PictureReader

    def __init__(self, listing: Listing, class_names: Sequence[str], planar: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.listing, self.names, self.planar = listing, list(class_names), planar
        self._parts = {"test": ("test", torch.arange(len(listing)))}

    @property
    def images(self) -> Any:
        """Where pictures are read from."""
        return self.listing

    @property
    def class_ids(self) -> list[str]:
        """The classes' names."""
        return self.names

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """The classes' names."""
        return self.names

    @property
    def failed(self) -> dict[int, str]:
        """Why pictures so far could not be read, by their indices."""
        return dict(self.skipped)  # type: ignore[arg-type]

    def labels(self, split: Split) -> Tensor:
        """Return UNLABELLED for every picture, [N], int64."""
        return torch.full((len(self.listing),), UNLABELLED)

    def image_name(self, split: Split, index: int) -> str:
        """Return what a picture is called."""
        return self.listing.name(index)

    def evaluation_batch_size(self, devices: int, accumulated: int) -> int:
        """Return the pictures in one forward pass: of those with many views fewer."""
        return max(self.batch_size // self.crops, 1)

    def loader(self, split: Split, sampler: TrainSampler | EvalSampler, batch_size: int) -> DataLoader[Any]:
        """Return a loader; a few pictures are there before workers would have begun."""
        made = super().loader(split, sampler, batch_size)
        if len(self.listing) <= batch_size:
            made.num_workers = 0
        return made

    def picture(self, split: Split, index: int) -> decode.Pixels:
        """Return the middle [eval_size, eval_size, 3] of a picture that could be read."""
        return center(decode.decode(self.listing.read(split, index), upright=self.upright), self.eval_sizes)
