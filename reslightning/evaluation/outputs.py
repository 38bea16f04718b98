"""What a network says of pictures, picture by picture: lines as they come, a sheet with maps, and vectors."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from reslightning.data.base import DataModule
from reslightning.data.decode import ImageError
from reslightning.errors import TrainingError, UserError
from reslightning.evaluation.answers import SUFFIX
from reslightning.evaluation.pictures import Pictures
from reslightning.evaluation.sheet import Cell, sheet
from reslightning.files import check_file, one_line, printable, written
from reslightning.models.features import Features

Format = Literal["table", "csv", "jsonl"]
WIDEST = 48  # letters of a name that others are aligned with
MOST = 500  # pictures of a sheet


class Lines(Callback):
    """Writes a line for each picture as soon as there is an answer: the most probable classes, or why there is none.

    Attributes:
        failed: how many pictures could not be read.
    """

    def __init__(self, data: Pictures, form: Format, top: int, out: TextIO, errors: TextIO) -> None:
        self.data, self.form, self.top, self.out, self.errors = data, form, top, out, errors
        self.failed = 0
        lengths = [length for at in range(len(data.listing)) if (length := len(data.listing.name(at))) <= WIDEST]
        self.width = max(lengths, default=0)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the columns' names."""
        if self.form == "csv":
            ranks = range(1, self.top + 1)
            self._csv(["file", *(name for rank in ranks for name in (f"class_{rank}", f"probability_{rank}"))])

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Write a batch's lines."""
        failed = self.data.failed
        if not outputs["probability"].isfinite().all():
            raise TrainingError("the network's answers are no numbers: its weights are not finite")
        shares, classes = outputs["probability"].cpu().topk(self.top)
        for row, index in enumerate(outputs["index"].tolist()):
            name = self.data.listing.name(index)
            if index in failed:
                self.failed += 1
                print(f"not read: {one_line(failed[index])}", file=self.errors, flush=True)
                if self.form == "jsonl":
                    self._json({"file": name, "error": failed[index]})
                continue
            names = [printable(self.data.names[number]) for number in classes[row].tolist()]
            self._write(name, list(zip(names, shares[row].tolist(), strict=True)))
        self.out.flush()

    def _write(self, name: str, answers: Sequence[tuple[str, float]]) -> None:
        if self.form == "csv":
            self._csv([name, *(value for answer in answers for value in answer)])
        elif self.form == "jsonl":
            self._json({"file": name, "classes": [{"class": one, "probability": share} for one, share in answers]})
        else:
            shown = ", ".join(said(one_line(one), share) for one, share in answers)
            self.out.write(f"{one_line(name):{self.width}}  {shown}\n")

    def _csv(self, row: Sequence[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        self.out.write(text.getvalue())

    def _json(self, document: Any) -> None:
        self.out.write(json.dumps(document) + "\n")


def said(name: str, share: float) -> str:
    """Return a class with its probability: in brackets, since a class may be a number, too."""
    return f"{name} ({100 * share:.2f} %)"


class Sheet(Callback):
    """Draws the first pictures with their answers, and over them what speaks for the first one (arXiv:1512.04150)."""

    def __init__(self, data: Pictures, features: Features, path: Path, top: int) -> None:
        self.data, self.features, self.path, self.top = data, features, path, top
        self.cells: list[Cell] = []

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep a batch's pictures, answers and maps."""
        shares, classes = outputs["probability"].cpu().topk(self.top)
        maps = self.features.class_maps(outputs["probability"].argmax(1)).cpu() if self.features.maps_classes else None
        failed = self.data.failed
        for row, index in enumerate(outputs["index"].tolist()):
            if index in failed or len(self.cells) >= MOST:
                continue
            try:
                picture = self.data.picture("test", index)
            except (UserError, ImageError):  # it is gone since
                continue
            names = [printable(self.data.names[number]) for number in classes[row].tolist()]
            lines = [said(*answer) for answer in zip(names, shares[row].tolist(), strict=True)]
            heat = None if maps is None else maps[row].numpy()
            name = Path(self.data.listing.name(index)).name
            self.cells.append(Cell(picture, [name, *lines], heat=heat))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the sheet, whole or not at all."""
        if not self.cells:
            print("no sheet: no picture could be read", file=sys.stderr)
            return
        content = io.BytesIO()
        sheet(self.cells).save(content, "PNG" if self.path.suffix.lower() == ".png" else "JPEG")
        with written(self.path) as file:
            file.write(content.getvalue())
        rest = f", the first {MOST} of {len(self.data.listing):,} pictures" if len(self.cells) == MOST else ""
        print(f"sheet written to {self.path}{rest}", file=sys.stderr)


class Embeddings(Callback):
    """Writes the vectors of the last pooling, of every image that could be read, to an .npz file.

    It has ``names`` [N], ``labels`` [N] (-1 where there is none), ``vectors`` [N, D], float32, and ``classes``;
    ``numpy.load`` reads it without pickle.
    """

    def __init__(self, features: Features, path: Path) -> None:
        self.features, self.path = features, path
        self._parts: list[Any] = []

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep a batch's vectors."""
        self._parts.append((outputs["index"].cpu(), outputs["label"].cpu(), self.features.vectors.float().cpu()))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write those of all processes, in the data set's order."""
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(parts, self._parts)
            self._parts = [one for part in parts for one in part]
        if not trainer.is_global_zero:
            return
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        index, labels, vectors = (torch.cat(column) for column in zip(*self._parts, strict=True))
        failed = data.failed if isinstance(data, Pictures) else {}
        rows = [row for row in index.argsort().tolist() if int(index[row]) not in failed]
        arrays = {
            "names": np.array([data.image_name("test", int(index[row])) for row in rows], dtype=np.str_),
            "labels": labels[rows].numpy(),
            "vectors": vectors[rows].numpy(),
            "classes": np.array(list(map(printable, data.answers or data.class_names)), dtype=np.str_),
        }
        with written(self.path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        print(f"{len(rows):,} vectors written to {self.path}", file=sys.stderr)


def embeddings(model: Any, path: Path, protocol: str = "center") -> Embeddings:
    """Return what writes a network's vectors of every image.

    Args:
        model: the network, an ``ImageClassifier``.
        path: the file.
        protocol: how images are evaluated.

    Raises:
        UserError: the file cannot be written, or there are several vectors for an image.
    """
    check_file(path.expanduser(), "--embeddings")
    if path.suffix != SUFFIX:
        raise UserError(f"--embeddings {path} has no name of such a file; allowed: FILE{SUFFIX}")
    check_one_view(model, "--embeddings", protocol)
    return Embeddings(Features(model.model), path.expanduser())


def check_one_view(model: Any, option: str, protocol: str = "center") -> None:
    """Raise UserError where an image is evaluated in several views, and so has no one map or vector."""
    if protocol != "center" or model.hparams["test_flip"]:
        views = "--model.test_flip" if protocol == "center" else f"--protocol {protocol}"
        raise UserError(
            f"{option} is of an image's one view, and {views} makes several\nGive --protocol center, or of a test set "
            "--model.test_flip false."
        )
