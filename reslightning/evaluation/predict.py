"""The probabilities of every image, as a table or as a file that ensembles are made of."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from reslightning.data.base import DataModule
from reslightning.data.registry import Split
from reslightning.evaluation.answers import Answers
from reslightning.files import printable, written
from reslightning.train.evaluator import probabilities


class PredictionWriter(BasePredictionWriter):
    """Writes index, label, predicted class and all probabilities of every image, one row each."""

    def __init__(self, path: Callable[[int], Path]) -> None:
        """Write to where ``path`` says for a number of rows."""
        super().__init__(write_interval="epoch")
        self.path = path

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Gather the rows of all processes and write them in the order of the data set."""
        rows = [
            (index, label, max(range(len(probabilities)), key=probabilities.__getitem__), *probabilities)
            for batch in predictions
            for index, label, probabilities in zip(
                *(batch[key].tolist() for key in ("index", "label", "probability")), strict=True
            )
        ]
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if trainer.is_global_zero:
            data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
            names = map(printable, data.answers or data.class_names)
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["index", "label", "prediction", *names, "file"])
            writer.writerows((*row, data.file("test", row[0])) for row in sorted(rows))
            path = self.path(len(rows))
            with written(path) as file:
                file.write(text.getvalue().encode())
            print(f"{len(rows):,} predictions written to {path}")


class Keeper(Callback):
    """Keeps what an evaluation's steps return, of all processes, for ``answers``."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []  # of this process: indices, labels, probabilities
        self._parts: list[Any] = []  # of every process

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep what a batch's step returned."""
        self._keep(outputs)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep what a batch's step returned."""
        self._keep(outputs)

    def _keep(self, outputs: Any) -> None:
        """Keep a batch's indices [B], labels [B] and probabilities [B, num_classes]."""
        index, labels = outputs["index"].cpu(), outputs["label"].cpu()
        self._batches.append((index, labels, probabilities(outputs["logits"]).cpu()))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather what all processes kept."""
        mine = [torch.cat(column) for column in zip(*self._batches, strict=True)]
        self._batches, self._parts = [], [mine]
        if trainer.world_size > 1:
            self._parts = [None] * trainer.world_size
            dist.all_gather_object(self._parts, mine)

    on_validation_epoch_end = on_test_epoch_end

    def answers(self, data: DataModule, split: Split, facts: Mapping[str, Any]) -> Answers:
        """Return the last evaluation's answers, in the data set's order at any number of processes."""
        index, labels, probabilities = (torch.cat(column) for column in zip(*self._parts, strict=True))
        self._parts = []
        order = index.argsort()
        names = np.array([data.image_name(split, number) for number in index[order].tolist()])
        classes = [printable(name) for name in data.answers or data.class_names]
        facts = {"split": split, **facts, "part": data.part(split), "files": bool(data.file(split, 0))}
        return Answers(names, labels[order].numpy(), probabilities[order].numpy(), classes, facts)
