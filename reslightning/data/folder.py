"""Folders of a user's own classes: files of any size, read and decoded by loader workers."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from reslightning.data import decode, on_device
from reslightning.data.base import SIZE, DataModule
from reslightning.data.indexing import some
from reslightning.data.labels import imagenet_classes
from reslightning.data.options import keep
from reslightning.data.reader import Failed, Reader
from reslightning.data.registry import SPLITS, Split
from reslightning.data.sampler import EvalSampler, TrainSampler
from reslightning.data.sources import Source
from reslightning.data.twins import shared
from reslightning.data.views import Interpolation, Sizes, center
from reslightning.data.workers import Loader, start
from reslightning.errors import UserError
from reslightning.files import printable
from reslightning.ranges import Range

USUAL = {"eval_resize": 256, "eval_size": 224}  # of an evaluation on ImageNet


class ImageFolder(DataModule):
    """Your own classes: train/CLASS/FILE and val/CLASS/FILE, as folders or in tars; test/ where there is one.

    Options as DataModule, and:

    Args:
        train_size: height and width in pixels that training crops are scaled to, once they have grown.
        crop_scale: least share of an image's area in a training crop.
        eval_resize: pixels that the shorter side is scaled to for evaluation.
        eval_size: height and width of the middle that is evaluated.
        eval_interpolation: by which of Pillow's filters images are scaled for evaluation, bilinear or bicubic;
            both average where they make smaller.
        on_corrupt: error, or skip: a corrupt training image is replaced by the next one, counted and
            reported. An evaluation never goes without an image.
        device_decode: decode training images on the device (nvJPEG, by torchcodec, the extra decode), in place of the
            workers.
        exif_orientation: turn images upright as their EXIF data says; none given means that images of one's
            own are turned, and ImageNet's are not, as in torchvision and for all published results.
        index_dir: where the index goes if the source's own folder cannot be written.
    """

    own_mean = (0.485, 0.456, 0.406)
    own_std = (0.229, 0.224, 0.225)
    own_upright: ClassVar[bool] = True
    reader: ClassVar[type[Reader]] = Reader
    reads_files = True

    def __init__(
        self,
        train_size: Annotated[int, SIZE] = 224,
        crop_scale: Annotated[float, Range("(0, 1]")] = 0.08,
        eval_resize: Annotated[int, SIZE] = 256,
        eval_size: Annotated[int, SIZE] = 224,
        eval_interpolation: Interpolation = "bilinear",
        on_corrupt: Literal["error", "skip"] = "error",
        device_decode: bool = False,
        exif_orientation: bool | None = None,
        index_dir: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        keep(self, locals())
        self.upright = self.own_upright if exif_orientation is None else exif_orientation
        self.image_size = eval_size
        self.index_dir = Path(index_dir).expanduser() if index_dir else None
        self.skips = on_corrupt == "skip"
        self.skipped: list[str] = []  # corrupt training images of the epoch
        self._source: Source | None = None
        self._content: dict[str, Any] = {}
        self._parts: dict[Split, tuple[Split, Tensor]] = {}  # the source's split, and positions in it

    # -- what there is -----------------------------------------------------------------------------

    @property
    def images(self) -> Source:
        """The source that images are read from, opened when first needed.

        Raises:
            UserError: it is not there, or not as it must be.
        """
        if self._source is None:
            if not self.root.exists():
                raise UserError(
                    f"no such folder or tar: {self.root.absolute()}\nGive the images' place as --data.root."
                )
            self._source = Source(self.root, self.index_dir)
            if self._source.made:
                count = sum(len(self._source.labels(split)) for split in SPLITS)
                print(f"indexed {count:,} images in {self._source.made:.1f} s: {self._source.index.path}", flush=True)
                if (compared := self._source.index.notes["compared"]) < count:
                    print(f"  {compared:,} of them, chosen by length, were looked for twice", flush=True)
        return self._source

    @property
    def class_ids(self) -> list[str]:
        """The folders' names (WordNet ids, for ImageNet's), in the order of the labels."""
        return self.images.classes

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """The number of class folders."""
        return len(self.class_ids)

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Readable names of WordNet ids, and the folders' names of all others."""
        return [imagenet_classes().get(name, name) for name in self.class_ids]

    @property
    def val_source(self) -> Literal["held-out", "test"]:
        """Held-out where val/ and test/ are two, or val_split is given; else the validation part is the test set."""
        both = len(self.images.labels("val")) and len(self.images.labels("test"))
        return "held-out" if self.val_split or both else "test"

    def part(self, split: Split) -> Split:
        """Return the source's part that a split's images are from."""
        self.setup()
        return self._parts[split][0]

    @property
    def protocol(self) -> str:
        """The centre, with what is unusual about it; torchvision's V2 is center-232-224."""
        return "center" + self.unusual("eval_resize", "eval_size")

    @property
    def eval_sizes(self) -> Sizes:
        """How an image comes to the size that is evaluated."""
        return Sizes(self.eval_resize, self.eval_size, self.eval_interpolation)

    def unusual(self, *sizes: str) -> str:
        """Return in what an evaluation that looks at these sizes is not the usual one: -232-224, say, or -bicubic."""
        values = {name: getattr(self, name) for name in sizes}
        numbers = [] if all(USUAL[name] == value for name, value in values.items()) else values.values()
        filters = [] if self.eval_interpolation == "bilinear" else [self.eval_interpolation]
        return "".join(f"-{part}" for part in (*numbers, *filters))

    @property
    def sizes(self) -> dict[str, Any]:
        """How an image comes to the size that is evaluated."""
        return super().sizes | {"eval_resize": self.eval_resize, "interpolation": self.eval_interpolation}

    @property
    def full_size(self) -> int:
        """Height and width of training crops in pixels, once they have grown."""
        return self.train_size

    def check_options(self) -> None:
        """Raise UserError for option values that mean nothing."""
        super().check_options()
        if self.eval_size > self.eval_resize:
            raise UserError(
                f"data.eval_size={self.eval_size} is more than data.eval_resize={self.eval_resize}: no middle of an "
                "image is larger than the image"
            )

    def check_training(self) -> None:
        """Raise UserError for what cannot be trained on, or decoded."""
        super().check_training()
        if self.device_decode:
            on_device.check()

    def setup(self, stage: str | None = None) -> None:
        """Open the source once and divide it; later calls do nothing."""
        if self._parts:
            return
        self.stage()
        if set(self.images.classes) <= {*SPLITS, "valid", "validation"}:  # a folder level too many
            raise UserError(
                f"the classes of {self.root} are {some(self.images.classes)}, which look like its parts\nGive "
                f"{self.root}/train as --data.root, or other names to the classes."
            )
        counts = {split: len(self.images.labels(split)) for split in SPLITS}
        everything = {split: (split, torch.arange(count)) for split, count in counts.items()}
        parts = dict(everything)
        if counts["train"]:
            held_out, kept = self.hold_out(counts["train"])
            parts["train"] = ("train", kept)
            if self.val_split:
                parts["val"] = ("train", held_out)
        if not len(parts["val"][1]):
            parts["val"] = everything["test"]
        if not counts["test"]:
            parts["test"] = everything["val"] if counts["val"] else parts["val"]
        if not len(parts["val"][1]):
            raise UserError(
                f"{self.root} has no validation images\nPut them under val/CLASS, or hold some out of train with "
                "--data.val_split N."
            )
        self._parts = parts

    def labels(self, split: Split) -> Tensor:
        """Return a split's labels [N], int64."""
        self.setup()
        part, positions = self._parts[split]
        return torch.from_numpy(self.images.labels(part).astype(np.int64))[positions]

    def n_samples(self, split: Split) -> int:
        """Return the number of images of a split."""
        self.setup()
        return len(self._parts[split][1])

    def file(self, split: Split, index: int) -> str:
        """Return the path of an image within its source."""
        return printable(self._name(split, index))

    def image_name(self, split: Split, index: int) -> str:
        """Return part, class and file name of an image, also where the source has it in no class's folder."""
        part, positions = self._parts[split]
        label = self.class_ids[int(self.images.labels(part)[positions[index]])]
        rest = self._name(split, index).removeprefix(f"{part}/").removeprefix(f"{label}/")
        return printable(f"{part}/{label}/{rest}")

    def content(self) -> dict[str, Any]:
        """Return what the data is, by its source's digest: not what a resized or edited copy of it is."""
        if not self._content:
            source = self.images
            counts = {split: len(source.labels(split)) for split in SPLITS}
            first = {split: printable(source.index.name(split, 0)) for split, count in counts.items() if count}
            self._content = {
                "digest": source.digest(),
                "classes": [printable(name) for name in source.classes],
                "counts": counts,
                "first": first,
            }
        return self._content

    def notices(self) -> list[str]:
        """Return lines on files that are not read, on further frames, and on images that stand in two parts."""
        self.setup()
        parts = {split: part for split, part in self._parts.items() if split != "test" or not self._tests_val()}
        twins: dict[str, np.ndarray] = {
            split: self.images.index.column(source, "twin")[positions.numpy()]
            for split, (source, positions) in parts.items()
        }
        return [*self.images.notes(), *shared(twins, self._name)]

    def _tests_val(self) -> bool:
        (one, first), (other, second) = self._parts["val"], self._parts["test"]
        return one == other and torch.equal(first, second)

    def _name(self, split: str, position: int) -> str:
        source, positions = self._parts[split]  # type: ignore[index]
        return self.images.index.name(source, int(positions[position]))

    def one_class(self) -> str:
        """Return the level of folders that looks like the classes', where there is one below the only class."""
        part, positions = self._parts["train"]
        names = [self.images.index.name(part, position).split("/")[1:-1] for position in positions.tolist()]
        levels = [sorted({name[level] for name in names if len(name) > level}) for level in range(max(map(len, names)))]
        level = next((number for number, folders in enumerate(levels) if len(folders) > 1), None)
        if level is None:
            return f"\nEach class has a folder of its own, {self.root}/train/CLASS/FILE: add that of another."
        where = "/".join(["train", *names[0][:level]])
        return (
            f"\nThe folders in {where} look like the classes: {some(levels[level])}\nMove them up, into "
            f"{self.root}/train, and those of the other parts likewise."
        )

    def to_stage(self) -> Path | None:
        """Return tars, to be staged; a tree is not copied file by file."""
        if self.images.layout.kind == "tree":
            print("data.stage_to: a tree of files is not copied; `reslightning pack` makes tars of it", file=sys.stderr)
            return None
        return self.root

    def files_to_stage(self) -> list[Path]:
        """Return the tars, what says the validation images' classes, and the index if it lies beside them."""
        source = self.images
        beside = [source.index.path] if source.index.path.parent == source.layout.root else []
        return [*source.layout.files, *([source.layout.labels] if source.layout.labels else []), *beside]

    def use_copy(self, copy: Path) -> None:
        """Read from a copy of the source from now on."""
        self.root, self._source = copy, None

    # -- batches -----------------------------------------------------------------------------------

    def loader(self, split: Split, sampler: TrainSampler | EvalSampler, batch_size: int) -> DataLoader[Any]:
        """Return a loader whose workers read, decode and crop whole batches."""
        workers = self.num_workers
        if workers is None:
            workers = self.cpus() - 1
        return Loader(
            self.reader(self, split, sampler),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=functools.partial(start, self.worker_init),
            pin_memory=torch.cuda.is_available(),
        )

    def picture(self, split: Split, index: int) -> decode.Pixels:
        """Return an image's middle [eval_size, eval_size, 3]."""
        part, positions = self._parts[split]
        content = self.images.read(part, int(positions[index]))
        return center(decode.decode(content, upright=self.upright), self.eval_sizes)

    def indices(self, content: Any) -> Tensor:
        """Return the indices of what a worker read.

        Raises:
            UserError: an image was corrupt.
        """
        if isinstance(content, Failed):
            raise UserError(content.message)
        return content[2]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Any, Any]:
        """Note what a worker has skipped, and keep the indices on the host."""
        before = super().on_before_batch_transfer(batch, dataloader_idx)
        self.skipped += batch[3]
        return before

    def pixels(self, content: Any, split: Split, epoch: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return images [B, 3, size, size], uint8, or views, labels [B] and indices [B]; in training cropped."""
        images, labels, indices, *_ = content
        if isinstance(images, list):
            try:
                images = on_device.decoded(images, labels.device, self.size_at(epoch or 0))
            except RuntimeError as error:
                self._name_corrupt(images, indices)
                raise UserError(
                    f"the device could not decode a batch: {error}\nLeave out data.device_decode."
                ) from error
        return images, labels, indices

    def _name_corrupt(self, items: Sequence[Any], indices: Tensor) -> None:
        """Raise UserError for the first of a batch's training images that cannot be decoded here either."""
        part, positions = self._parts["train"]
        for item, index in zip(items, indices.tolist(), strict=True):
            try:
                decode.decode(item[0].tobytes() if isinstance(item, tuple) else b"")
            except decode.ImageError as error:
                if isinstance(item, tuple):
                    raise UserError(error.of(self.images.describe(part, int(positions[index])))) from error


def _as_it_is(batch: Any) -> Any:
    return batch
