"""What all data sets share: options, splits, loaders, and batches that are finished on the device."""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from reslightning.cluster.staging import stage
from reslightning.data import augmentations, autoaugment
from reslightning.data.decode import Pixels
from reslightning.data.options import Checked, keep
from reslightning.data.progress import started_by_lightning, training_position
from reslightning.data.registry import SPLITS, Split
from reslightning.data.sampler import EvalSampler, TrainSampler
from reslightning.data.views import Views
from reslightning.data.workers import ignore_signals
from reslightning.errors import UserError
from reslightning.ranges import SEED, Range

FRACTION, SPREAD = Range("fractions in [0, 1]"), Range("fractions in (0, 1]")
SIZE = Range("pixels in [1, 4096]")
Indices = np.ndarray[Any, np.dtype[np.int64]]
# Where each augmentation's draws of a sample begin: a new one goes behind, and the others stay as they are.
CROP, FLIP, CUTOUT, ERASING, POLICY, FILE_CROP = 0, 2, 3, 5, 32, 64


class DataModule(LightningDataModule, metaclass=Checked):
    """Images with labels; order and augmentation are functions of (seed, epoch, sample).

    Args:
        root: where the data is; none given means $RESLIGHTNING_DATA, else ./data.
        batch_size: samples per optimizer step, over all devices and accumulated micro-batches.
        num_workers: loader processes for each device; none given means as many as suit the data.
        stage_to: folder on the node's own storage ($TMPDIR, say) to read a copy of the data from; the
            copy is made once a node and removed at the end.
        val_split: training images held out for validation, chosen by the seed; none given means
            the data set's own validation part, which for most is the test set.
        mean: per channel, as fractions of 255; none given means the data set's own.
        std: per channel, as fractions of 255; none given means the data set's own.
        flip: mirror half of the training images, at random in every epoch (true), or at random in the first epoch and
            then in turn (alternating), so that any two epochs in a row show each image both ways (arXiv:2404.00498,
            Sec. 3.6); none given means the data set's own habit.
        policy: trivial (TrivialAugment, wide: arXiv:2103.10158) or rand (RandAugment, two operations of
            magnitude 9: arXiv:1909.13719) on training images.
        erasing: probability that a random part of a training image is blanked out (arXiv:1708.04896).
        mixup: alpha of mixup, whole images blended in pairs (arXiv:1710.09412); with cutmix too, each
            batch gets one of them.
        cutmix: alpha of CutMix, parts of images exchanged in pairs (arXiv:1905.04899).
        seed: chooses order, augmentation and held-out images; the command line's seed_everything.
        first_size: height and width in pixels of training images in the first epochs, from which they grow to their
            full size (progressive resizing, as in ffcv-imagenet): files are cropped so, of images in memory the crop
            is scaled. Evaluations are at full size. None given means that throughout.
        grow_epochs: the last epoch with first_size and the first with the full size, counted from 0; between them
            sizes are multiples of 32, of images in memory of 8.
    """

    num_classes: int
    class_names: Sequence[str]
    image_size: int = 32
    own_mean: ClassVar[tuple[float, ...]]
    own_std: ClassVar[tuple[float, ...]]
    own_flip: ClassVar[bool] = True
    size_step: ClassVar[int] = 32  # pixels: sizes of training images, while they grow, are multiples of it
    licence: ClassVar[str | None] = None  # of the data; None where it is not known
    download: bool = False
    reads_files: ClassVar[bool] = False  # while training, so that loader workers help
    skips: bool = False  # corrupt images
    unused: ClassVar[frozenset[str]] = frozenset()  # options that mean nothing to it
    upright: bool = False  # whether image files are turned as their EXIF data says
    # What is evaluated of an image [H, W, 3], in place of its middle, where a protocol says; and how many middles that
    # is as large as.
    views: Callable[[Pixels], Sequence[Pixels]] | None = None
    crops: int = 1
    answers: Sequence[str] | None = None  # the classes that an evaluated network knows, where they are others
    columns: Tensor | None = None  # of these, each class's
    arrived: float = 0.0  # when the last batch came from the loader, of time.perf_counter()
    worker_init: Callable[[int], None] | None = None  # what a loader's worker does first, given its number

    def __init__(
        self,
        root: str | None = None,
        batch_size: Annotated[int, Range("1 or more")] = 128,
        num_workers: Annotated[int | None, Range("a whole number in [0, 1024]")] = None,
        stage_to: str | None = None,
        val_split: Annotated[int | None, Range("0 or more")] = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        flip: bool | Literal["alternating"] | None = None,
        policy: autoaugment.Name | None = None,
        erasing: Annotated[float | None, Range("a probability, [0, 1]")] = None,
        mixup: Annotated[float | None, Range("0 or more")] = None,
        cutmix: Annotated[float | None, Range("0 or more")] = None,
        seed: Annotated[int, SEED] = 0,
        first_size: Annotated[int | None, SIZE] = None,
        grow_epochs: list[int] | None = None,
    ) -> None:
        super().__init__()
        keep(self, locals())
        self.root = Path(root or os.environ.get("RESLIGHTNING_DATA") or "data").expanduser()
        self.mean = torch.tensor(self.own_mean if mean is None else mean)
        self.std = torch.tensor(self.own_std if std is None else std)
        self.flip = self.own_flip if flip is None else flip
        self.val_split = val_split or 0
        self._staged = False

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Options are attributes by their names."""

    # -- what a data set is ------------------------------------------------------------------------

    @property
    def val_source(self) -> Literal["held-out", "test"]:
        """Where validation images come from: the training part, or the test set."""
        return "held-out" if self.val_split else "test"

    def part(self, split: Split) -> Split:
        """Return the official part that a split's images are from: two splits may share one."""
        if split != "val":
            return split
        return "train" if self.val_split else "test"

    @property
    def class_ids(self) -> Sequence[str]:
        """What the classes are known by, in the order of the labels: their names, if no more is known."""
        return self.class_names

    def answer_in(self, answers: Sequence[str], columns: Sequence[int]) -> None:
        """Label what is evaluated by a network's classes.

        Args:
            answers: their names.
            columns: where each class of the data stands among them; -1 where it does not.
        """
        self.answers, self.columns = answers, torch.tensor(columns)

    def file(self, split: Split, index: int) -> str:
        """Return the name of an image's file, within its source; empty where there are none."""
        return ""

    def image_name(self, split: Split, index: int) -> str:
        """Return what an image is called, the same wherever its data lies: its official part, and its place there."""
        return f"{self.part(split)}/{self.position(split, index)}"

    def position(self, split: Split, index: int) -> int:
        """Return where in its official part an image stands; of held-out ones that is another place than among them."""
        return index

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Read or open the data once; later calls do nothing."""

    @abstractmethod
    def labels(self, split: Split) -> Tensor:
        """Return a split's labels [N], int64."""

    def content(self) -> dict[str, Any]:
        """Return what the data is, wherever it lies.

        ``digest`` of all that determines a result, ``classes``, ``counts`` of images by official split, and the
        ``first`` file of each, where there are files. Of a data set that says no more: its classes and labels.
        """
        digest = hashlib.sha256(json.dumps(list(self.class_names)).encode())
        counts = {}
        for split in SPLITS:
            labels = self.labels(split)
            digest.update(labels.numpy().tobytes())
            counts[split] = len(labels)
        return {"digest": digest.hexdigest()[:16], "classes": list(self.class_names), "counts": counts, "first": {}}

    @abstractmethod
    def loader(self, split: Split, sampler: TrainSampler | EvalSampler, batch_size: int) -> DataLoader[Any]:
        """Return a loader of what ``pixels`` takes, in a sampler's order."""

    @abstractmethod
    def pixels(self, content: Any, split: Split, epoch: int | None) -> tuple[Any, Tensor, Tensor]:
        """Return images [B, 3, H, W], uint8, or ``views`` of them, labels [B] and indices [B] of what a loader gave.

        In training ``epoch`` chooses each image's crop; in evaluation it is None.
        """

    @abstractmethod
    def indices(self, content: Any) -> Tensor:
        """Return the indices [B] of what a loader gave."""

    @property
    def protocol(self) -> str:
        """How an image is evaluated, in a word: its centre, which for small images is all of it."""
        return "center"

    def unusual(self, *sizes: str) -> str:
        """Return in what an evaluation that looks at these of ``sizes`` is not the usual one, as a name's ending."""
        return ""

    @property
    def sizes(self) -> dict[str, Any]:
        """How an image comes to the size that is evaluated, in pixels.

        Its shorter side is scaled to ``eval_resize`` by ``interpolation``, and the middle ``eval_size`` is taken. Both
        ways to scale are None where images have that size. ``image_size`` is what the network is given.
        """
        return {
            "image_size": self.image_size,
            "eval_resize": None,
            "eval_size": self.image_size,
            "interpolation": None,
        }

    @abstractmethod
    def picture(self, split: Split, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return an image [height, width, 3] as it is evaluated, before it is normalised."""

    @property
    def full_size(self) -> int:
        """Height and width of training images in pixels, once they have grown."""
        return self.image_size

    def size_at(self, epoch: int) -> int:
        """Return the height and width of an epoch's training images, in pixels."""
        if self.first_size is None or self.grow_epochs is None:
            return self.full_size
        start, stop = self.grow_epochs
        if epoch <= start or epoch >= stop:
            return self.first_size if epoch <= start else self.full_size
        grown = self.first_size + (self.full_size - self.first_size) * (epoch - start) / (stop - start)
        return max(min(round(grown / self.size_step) * self.size_step, self.full_size), self.first_size)

    @property
    def training_sizes(self) -> list[int]:
        """Heights and widths of training images in pixels, in the order in which they come."""
        start, stop = self.grow_epochs or (0, 0)
        return list(dict.fromkeys(self.size_at(epoch) for epoch in range(start, stop + 1)))

    def to_stage(self) -> Path | None:
        """Return the file or folder that staging copies; None where there is none."""
        return None

    def files_to_stage(self) -> list[Path] | None:
        """Return the files of it that are needed; None for all of them."""
        return None

    def cpus(self) -> int:
        """Return the CPUs that this process may use, of those that a training's processes share."""
        task, here = os.environ.get("SLURM_CPUS_PER_TASK", ""), len(os.sched_getaffinity(0))
        if task.isdigit():
            here = min(int(task), here)
        # srun gives every process its own; all others share.
        if self.trainer and (started_by_lightning(self.trainer) or not task.isdigit()):
            here //= self.trainer.num_devices
        return max(here, 1)

    def use_copy(self, copy: Path) -> None:
        """Read from a copy of what ``to_stage`` returns from now on."""
        self.root = copy.parent

    def n_samples(self, split: Split) -> int:
        """Return the number of images of a split."""
        self.setup()
        return len(self.labels(split))

    def majority(self, split: Split) -> float:
        """Return the share of a split's images that are of its most frequent class, in [0, 1]."""
        labels = self.labels(split)
        return labels.bincount().max().item() / len(labels)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a whole epoch: its full global batches."""
        return self.n_samples("train") // self.batch_size

    # -- checks ------------------------------------------------------------------------------------

    def check_options(self) -> None:
        """Raise UserError for option values that mean nothing together or to this data."""
        for option, values in (("mean", self.mean), ("std", self.std)):
            if values.shape != (3,):
                raise UserError(f"data.{option} has {len(values)} values; allowed: 3, one per channel")
            if values.tolist() not in (FRACTION if option == "mean" else SPREAD):
                allowed = (FRACTION if option == "mean" else SPREAD).words
                raise UserError(f"data.{option}={values.tolist()} is out of range; allowed: {allowed}, of 255")
        grows = self.grow_epochs or []
        if (self.first_size is None) != (self.grow_epochs is None):
            raise UserError("data.first_size and data.grow_epochs belong together; give both, or none")
        if self.grow_epochs is not None and not (len(grows) == 2 and 0 <= grows[0] < grows[1]):
            raise UserError(f"data.grow_epochs={grows} is no span of epochs; allowed: [FIRST, LAST], like [11, 13]")
        if self.first_size is not None and self.first_size >= self.full_size:
            raise UserError(
                f"data.first_size={self.first_size} is out of range; allowed: less than the {self.full_size} pixels "
                "that training images grow to"
            )

    def check_training(self) -> None:
        """Raise UserError where they are fewer than a batch, or of one class: every network knows it without a look."""
        images = self.n_samples("train")
        if self.batch_size > images:
            raise UserError(
                f"data.batch_size={self.batch_size} exceeds the {images} training images; use at most {images}"
            )
        found = self.labels("train").unique()
        if len(found) == 1:
            name = self.class_names[int(found)]
            raise UserError(f"all {self.n_samples('train')} training images are of one class, {name}{self.one_class()}")

    def one_class(self) -> str:
        """Return what may be wrong, and what to do, where training images are of one class."""
        return "\nAdd images of another."

    def notices(self) -> list[str]:
        """Return lines that say what is odd about the images: some in two parts, say."""
        return []

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

    def evaluation_batch_size(self, devices: int, accumulated: int) -> int:
        """Return the samples in one device's forward pass of an evaluation."""
        # Without gradients more fits; at least 64, so that a batch size of 1 still evaluates fast.
        return max(max(2 * self.batch_size // (devices * accumulated), 64) // self.crops, 1)

    def check_evaluation(self, split: Split, processes: int) -> None:
        """Raise UserError where a process would have no image of a split to evaluate."""
        if (samples := self.n_samples(split)) < processes:
            raise UserError(
                f"the {split} part has {samples} images, fewer than the {processes} processes; "
                f"use --trainer.devices {samples} or fewer"
            )

    def hold_out(self, images: int) -> tuple[Tensor, Tensor]:
        """Divide the official training images into held-out and kept ones, positions in ascending order.

        Raises:
            UserError: nothing would be left to train on.
        """
        if self.val_split >= images > 0:
            raise UserError(
                f"data.val_split={self.val_split} leaves no training images: {type(self).__name__} has {images}"
            )
        generator = torch.Generator().manual_seed(augmentations.permutation_seed(self.seed, -1))
        order = torch.randperm(images, generator=generator)
        return order[: self.val_split].sort()[0], order[self.val_split :].sort()[0]

    def stage(self) -> None:
        """Read from a copy on the node's own storage from now on, where asked for and possible."""
        if self.stage_to is None or not (place := self.to_stage()):
            return
        to = Path(os.path.expandvars(self.stage_to)).expanduser()
        if "$" in str(to):
            raise UserError(f"data.stage_to={self.stage_to} names a variable that is not set here; allowed: a folder")
        self.use_copy(stage(place, to, self.files_to_stage()))
        self._staged = True

    # -- loaders -----------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this process's loader of training samples, from where training stands."""
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
        return self.loader("train", sampler, micro)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return this process's loader of validation samples."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return this process's loader of test samples."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return this process's loader of test samples."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> DataLoader[Any]:
        trainer = self._require_trainer()
        samples, world_size = self.n_samples(split), trainer.world_size
        self.check_evaluation(split, world_size)
        micro = self.evaluation_batch_size(world_size, trainer.accumulate_grad_batches)
        return self.loader(split, EvalSampler(samples, rank=trainer.global_rank, world_size=world_size), micro)

    def _require_trainer(self) -> Any:
        if self.trainer is None:
            raise RuntimeError("a data module's loaders exist only inside a Trainer: pass it as datamodule")
        return self.trainer

    # -- batches -----------------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Any, Indices]:
        """Keep the indices on the host: what is decided for each sample must not wait for the device."""
        self.arrived = time.perf_counter()
        return batch, self.indices(batch).numpy()

    def on_after_batch_transfer(self, batch: tuple[Any, Indices], dataloader_idx: int) -> tuple[Any, Tensor, Tensor]:
        """Return normalised images [B, 3, H, W], or views, labels [B] or targets [B, classes], indices [B]."""
        trainer = self._require_trainer()
        content, host = batch
        if trainer.training:
            images, labels = self.training_batch(content, trainer.current_epoch, host)
        else:
            split: Split = "val" if trainer.validating or trainer.sanity_checking else "test"
            images, labels = self.evaluation_batch(content, split)  # type: ignore[assignment]
        return images, labels, self.indices(content)

    def training_batch(self, content: Any, epoch: int, host: Indices | None = None) -> tuple[Tensor, Tensor]:
        """Return augmented, normalised images [B, 3, H, W] with labels [B], or targets [B, classes] where mixed.

        Args:
            content: what the loader gave, on the batch's device.
            epoch: the epoch, from 0.
            host: the samples' indices where Python can read them; none given means that it waits for them.
        """
        images, labels, indices = self.pixels(content, "train", epoch)
        on_host = indices.cpu() if host is None else torch.from_numpy(host)
        if self.flip:
            # An odd draw mirrors: the first epoch's, to which every epoch adds one, alternates.
            drawn, turns = (0, epoch) if self.flip == "alternating" else (epoch, 0)
            images = augmentations.flip_(images, self._draws(drawn, indices, FLIP, 1)[:, 0] + turns)
        if self.policy:
            images = autoaugment.apply(self.policy, images, self._draws(epoch, on_host, POLICY, autoaugment.DRAWS))
        images = self._finish(self._normalize(images), epoch, indices)
        if self.erasing:
            draw = self._draws(epoch, indices, ERASING, augmentations.ERASING_DRAWS)
            images = augmentations.random_erasing(images, draw, self.erasing)
        if self.mixup or self.cutmix:
            targets = torch.nn.functional.one_hot(labels, self.num_classes).to(images.dtype)
            chance = np.random.default_rng([self.seed, epoch, int(on_host[0])])
            return augmentations.mix(images, targets, chance, mixup=self.mixup or 0, cutmix=self.cutmix or 0)
        return images, labels

    def evaluation_batch(self, content: Any, split: Split) -> tuple[Tensor | Views, Tensor]:
        """Return normalised images [B, 3, H, W], or views, and labels [B] of a split's samples."""
        images, labels, _ = self.pixels(content, split, None)
        if self.columns is not None:
            self.columns = self.columns.to(labels.device)
            labels = self.columns[labels]
        if isinstance(images, Views):
            return images._replace(images=[self._normalize(views) for views in images.images]), labels
        return self._normalize(images), labels

    def _finish(self, images: Tensor, epoch: int, indices: Tensor) -> Tensor:
        """Return normalised training images with what a data set does to them alone."""
        return images

    def _draws(self, epoch: int, indices: Tensor, first: int, count: int) -> Tensor:
        return augmentations.draws(self.seed, epoch, indices, count, first=first)

    def _normalize(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        return augmentations.normalize(images, self.mean, self.std)


def prepare(data: DataModule) -> None:
    """Download where asked, on one process, and read the data, so that what is wrong shows at once.

    All processes stage, for every node to do so at the same time. What comes next is stopped by this process alone.
    """
    data.worker_init = ignore_signals
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        data.prepare_data()
        data.setup()
        for line in data.notices():
            print(f"  {line}", flush=True)
    elif not data.download:
        data.stage()
