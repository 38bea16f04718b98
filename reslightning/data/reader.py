"""What a loader's worker does with files: read, decode and crop the images of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from reslightning.data import augmentations, decode, on_device
from reslightning.data.base import FILE_CROP
from reslightning.data.registry import Split
from reslightning.data.sampler import EvalSampler, TrainSampler
from reslightning.data.views import center, grouped, stack
from reslightning.errors import UserError

if TYPE_CHECKING:
    from reslightning.data.folder import ImageFolder


class Failed:
    """What a worker returns in place of a batch: raised there, its message would be a traceback."""

    def __init__(self, message: str) -> None:
        self.message = message


class Reader(Dataset[Any]):
    """The batches of a split, as a worker makes them."""

    def __init__(self, data: ImageFolder, split: Split, sampler: TrainSampler | EvalSampler) -> None:
        self.source = data.images.used()
        self.part, self.positions = data._parts[split]
        self.labels = data.labels(split)
        self.sampler = sampler
        self.seed, self.size_at, self.scale = data.seed, data.size_at, (data.crop_scale, 1.0)
        self.sizes, self.views = data.eval_sizes, data.views
        self.skips, self.device_decode = data.skips, data.device_decode
        self.upright = data.upright

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.positions)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return images [B, 3, size, size], uint8, or a protocol's Views, labels [B], indices [B] and what was skipped.

        In training an image is what its (seed, epoch, index) makes of it.
        """
        try:
            if isinstance(self.sampler, TrainSampler):
                return self._training(list(indices), self.sampler.epoch)
            contents = (self._read(index) for index in self._named(indices))
            whole = (decode.decode(content, upright=self.upright) for content in contents)
            images = grouped(list(map(self.views, whole))) if self.views else self._middles(whole)
            return images, self.labels[list(indices)], torch.tensor(indices), []
        except decode.ImageError as error:
            where = self.source.describe(self.part, int(self.positions[self.index]))
            skips = isinstance(self.sampler, TrainSampler) and isinstance(error, decode.CorruptImageError)
            return Failed(error.of(where, " or use --data.on_corrupt skip" if skips else ""))
        except UserError as error:
            return Failed(str(error))

    def _middles(self, images: Iterable[decode.Pixels]) -> Tensor:
        return stack([center(image, self.sizes) for image in images])

    def _training(self, indices: list[int], epoch: int) -> Any:
        size, skipped = self.size_at(epoch), list[str]()
        drawn = self._draws(epoch, indices)
        images: list[Any] = []
        for row, first in enumerate(indices):
            for index in self._named((first + k) % len(self) for k in range(len(self) if self.skips else 1)):
                try:
                    draws = drawn[row] if index == first else self._draws(epoch, [index])[0]
                    images.append(self._crop(self._read(index), draws, size))
                    indices[row] = index
                    break
                except decode.CorruptImageError:
                    if not self.skips:
                        raise
                    skipped.append(self.source.describe(self.part, int(self.positions[index])))
            else:
                raise UserError("no image of the training part is whole")
        content = images if self.device_decode else stack(images)
        return content, self.labels[indices], torch.tensor(indices), skipped

    def _draws(self, epoch: int, indices: list[int]) -> list[list[int]]:
        return augmentations.draws(self.seed, epoch, torch.tensor(indices), decode.CROP_DRAWS, first=FILE_CROP).tolist()

    def _crop(self, content: bytes, draws: list[int], size: int) -> Any:
        shape = decode.jpeg_size(content) if self.device_decode else None
        # What the device may not know, or would leave lying.
        if shape is None or (self.upright and decode.orientation(content) != decode.UPRIGHT):
            return decode.cropped(content, draws, size, self.scale, upright=self.upright)
        box = decode.random_resized_crop_box(*shape, draws, self.scale)
        return on_device.as_stored(content), box

    def _named(self, indices: Any) -> Any:
        """Yield indices, and keep the last for a message."""
        for index in indices:
            self.index = index
            yield index

    def _read(self, index: int) -> bytes:
        return self.source.read(self.part, int(self.positions[index]))
