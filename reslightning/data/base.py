"""What all data sets share: options, splits, loaders of indices, and batches made on the device."""

from __future__ import annotations

import os
import signal
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from reslightning import augment
from reslightning.data.sampler import EvalSampler, TrainSampler
from reslightning.data.staging import stage
from reslightning.errors import UserError
from reslightning.progress import training_position

Split = Literal["train", "val", "test"]


class DataModule(LightningDataModule):
    """Images of one size, held in memory as bytes, on the GPU where there is one.

    The loader moves indices; crop, flip and normalisation are one batched operation on the
    batch's device. Order and augmentation are functions of (seed, epoch, sample).

    Args:
        root: folder with the data; none given means $RESLIGHTNING_DATA, else ./data.
        batch_size: samples per optimizer step, over all devices and accumulated micro-batches.
        num_workers: loader processes; indices are light, so 0 is fastest.
        stage_to: folder on the node's own storage ($TMPDIR, say) to read a copy of the data from; the
            copy is made once a node and removed at the end.
        val_split: training images held out for validation, chosen by the seed; none given means
            that validation is the test set.
        mean: per channel, as fractions of 255; none given means the data set's own.
        std: per channel, as fractions of 255; none given means the data set's own.
        crop_padding: pixels padded on each side before the random crop; 0 crops nothing.
        padding_mode: what the padding holds, zeros or the reflected image.
        flip: mirror half of the training images; none given means the data set's own habit.
        cutout: side in pixels of a square blanked out of training images (arXiv:1708.04552).
        download: fetch the data where it is missing, checksummed, on one process.
        seed: chooses order, augmentation and held-out images; the command line's seed_everything.
    """

    num_classes: ClassVar[int]
    class_names: ClassVar[tuple[str, ...]]
    image_size: ClassVar[int] = 32
    own_mean: ClassVar[tuple[float, ...]]
    own_std: ClassVar[tuple[float, ...]]
    own_flip: ClassVar[bool] = True

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        stage_to: str | None = None,
        val_split: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        crop_padding: int = 4,
        padding_mode: augment.PaddingMode = "zeros",
        flip: bool | None = None,
        cutout: int = 0,
        download: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = Path(root or os.environ.get("RESLIGHTNING_DATA") or "data").expanduser()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.stage_to = stage_to
        self.val_split = val_split or 0
        self.mean = torch.tensor(self.own_mean if mean is None else mean)
        self.std = torch.tensor(self.own_std if std is None else std)
        self.crop_padding = crop_padding
        self.padding_mode = padding_mode
        self.flip = self.own_flip if flip is None else flip
        self.cutout = cutout
        self.download = download
        self.seed = seed
        self._images: dict[str, Tensor] = {}
        self._labels: dict[str, Tensor] = {}

    @property
    def val_source(self) -> Literal["held-out", "test"]:
        """Where validation images come from: the training part, or the test set."""
        return "held-out" if self.val_split else "test"

    @abstractmethod
    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return one official part: images [N, 3, H, W], uint8, and labels [N], int64.

        Raises:
            UserError: files are missing, truncated or wrongly sized.
        """

    def source(self) -> Path | None:
        """Return the file or folder that staging copies; None where there is none."""
        return None

    def stage(self) -> None:
        """Read from a copy on the node's own storage from now on, where asked for and possible."""
        if self.stage_to is None or not (source := self.source()):
            return
        to = Path(os.path.expandvars(self.stage_to)).expanduser()
        if "$" in str(to):
            raise UserError(f"data.stage_to={self.stage_to} names a variable that is not set here; allowed: a folder")
        self.root = stage(source, to).parent
        self.stage_to = None

    def setup(self, stage: str | None = None) -> None:
        """Read the data once and divide it; later calls do nothing."""
        if self._images:
            return
        self.check_options()
        self.stage()
        images, labels = self.load(train=True)
        test = self.load(train=False)
        if self.val_split >= len(images):
            raise UserError(
                f"data.val_split={self.val_split} leaves no training images: {type(self).__name__} has {len(images)}"
            )
        if self.batch_size > len(images) - self.val_split:
            raise UserError(
                f"data.batch_size={self.batch_size} exceeds the {len(images) - self.val_split} training images; "
                f"use at most {len(images) - self.val_split}"
            )
        generator = torch.Generator().manual_seed(augment.permutation_seed(self.seed, -1))
        order = torch.randperm(len(images), generator=generator)
        if self.val_split:
            held_out, kept = order[: self.val_split].sort()[0], order[self.val_split :].sort()[0]
            self._images["val"], self._labels["val"] = images[held_out], labels[held_out]
            images, labels = images[kept], labels[kept]
        # Padded once here: a crop then costs the same whatever the padding holds.
        self._images["train"] = augment.pad(images, self.crop_padding, self.padding_mode)
        self._labels["train"] = labels
        self._images["test"], self._labels["test"] = test
        if not self.val_split:
            self._images["val"], self._labels["val"] = test

    def check_options(self) -> None:
        """Raise UserError for option values that mean nothing."""
        for option, given, least in (
            ("batch_size", self.batch_size, 1),
            ("num_workers", self.num_workers, 0),
            ("val_split", self.val_split, 0),
            ("cutout", self.cutout, 0),
            ("crop_padding", self.crop_padding, 0),
        ):
            if given < least:
                raise UserError(f"data.{option}={given} is out of range; allowed: {least} or more")
        if self.padding_mode == "reflect" and self.crop_padding >= self.image_size:
            raise UserError(
                f"data.crop_padding={self.crop_padding} cannot be reflected; allowed: less than "
                f"the image's {self.image_size} pixels"
            )
        for option, values in (("mean", self.mean), ("std", self.std)):
            if values.shape != (3,):
                raise UserError(f"data.{option} has {len(values)} values; allowed: 3, one per channel")
        if not (self.std > 0).all():
            raise UserError(f"data.std={self.std.tolist()} is out of range; allowed: positive numbers")

    def n_samples(self, split: Split) -> int:
        """Return the number of images of a split."""
        self.setup()
        return len(self._labels[split])

    def labels(self, split: Split) -> Tensor:
        """Return a split's labels [N], int64."""
        self.setup()
        return self._labels[split]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a whole epoch: its full global batches."""
        return self.n_samples("train") // self.batch_size

    def micro_batch_size(self, devices: int, accumulated: int) -> int:
        """Return the samples in one device's forward pass.

        Raises:
            UserError: the global batch cannot be divided evenly.
        """
        parts = devices * accumulated
        if self.batch_size % parts:
            below, above = self.batch_size // parts * parts, -(-self.batch_size // parts) * parts
            nearest = " or ".join(str(size) for size in (below, above) if size)
            accumulation = f" times {accumulated} accumulated micro-batches" if accumulated > 1 else ""
            raise UserError(
                f"data.batch_size={self.batch_size} is global and not divisible by {devices} devices"
                f"{accumulation}; use {nearest}"
            )
        return self.batch_size // parts

    def check_evaluation(self, split: Split, processes: int) -> None:
        """Raise UserError where a process would have no image of a split to evaluate."""
        if (samples := self.n_samples(split)) < processes:
            raise UserError(
                f"the {split} part has {samples} images, fewer than the {processes} processes; "
                f"use --trainer.devices {samples} or fewer"
            )

    def train_dataloader(self) -> DataLoader[int]:
        """Return a loader of index batches [B], int64, for this process."""
        trainer = self._require_trainer()
        sampler = TrainSampler(
            self.n_samples("train"),
            self.batch_size,
            seed=self.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        micro = self.micro_batch_size(trainer.world_size, trainer.accumulate_grad_batches)
        epoch, batches = training_position(trainer)
        sampler.resume_at(epoch, batches * micro * trainer.world_size)
        return self.index_loader("train", sampler, micro)

    def val_dataloader(self) -> DataLoader[int]:
        """Return a loader of index batches over the validation images."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[int]:
        """Return a loader of index batches over the test images."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[int]:
        """Return a loader of index batches over the test images."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> DataLoader[int]:
        trainer = self._require_trainer()
        samples, world_size = self.n_samples(split), trainer.world_size
        self.check_evaluation(split, world_size)
        # Without gradients more fits; at least 64, so that a batch size of 1 still evaluates fast.
        micro = max(2 * self.batch_size // (world_size * trainer.accumulate_grad_batches), 64)
        return self.index_loader(split, EvalSampler(samples, rank=trainer.global_rank, world_size=world_size), micro)

    def index_loader(self, split: Split, sampler: TrainSampler | EvalSampler, batch_size: int) -> DataLoader[int]:
        """Return a loader of index batches [B], int64, in a sampler's order."""
        return DataLoader(
            range(self.n_samples(split)),  # type: ignore[arg-type]
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=torch.tensor,
            worker_init_fn=ignore_signals,
        )

    def _require_trainer(self) -> Any:
        if self.trainer is None:
            raise RuntimeError("a data module's loaders exist only inside a Trainer: pass it as datamodule")
        return self.trainer

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Turn indices [B] into images [B, 3, H, W], float32, labels [B] and the indices."""
        trainer = self._require_trainer()
        if trainer.training:
            images, labels = self.training_batch(batch, trainer.current_epoch)
        else:
            split: Split = "val" if trainer.validating or trainer.sanity_checking else "test"
            images, labels = self.evaluation_batch(batch, split)
        return images, labels, batch

    def training_batch(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Return augmented, normalised images [B, 3, H, W] and labels [B] of training samples."""
        images, labels = self._take("train", indices)
        draw = augment.draws(self.seed, epoch, indices, 5)
        images = augment.random_crop(images, draw[:, 0:2], self.crop_padding)
        if self.flip:
            images = augment.random_flip(images, draw[:, 2])
        return augment.cutout(self._normalize(images), draw[:, 3:5], self.cutout), labels

    def evaluation_batch(self, indices: Tensor, split: Split) -> tuple[Tensor, Tensor]:
        """Return normalised images [B, 3, H, W] and labels [B] of a split's samples."""
        images, labels = self._take(split, indices)
        return self._normalize(images), labels

    def _take(self, split: Split, indices: Tensor) -> tuple[Tensor, Tensor]:
        self.setup()
        if self._labels[split].device != indices.device:
            for part in (self._images, self._labels):
                part[split] = part[split].to(indices.device)
        return self._images[split].index_select(0, indices), self._labels[split].index_select(0, indices)

    def _normalize(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        return augment.normalize(images, self.mean, self.std)


def prepare(data: DataModule) -> None:
    """Download where asked, on one process, and read the data, so that what is wrong shows at once.

    All processes stage, for every node to do so at the same time.
    """
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        data.prepare_data()
        data.setup()
    elif not data.download:
        data.stage()


def ignore_signals(worker: int) -> None:
    """Leave stopping to the main process: Slurm and Ctrl-C signal a loader's workers too."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
