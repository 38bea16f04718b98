"""The probabilities of every image, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from reslightning.data.base import DataModule
from reslightning.evaluation.evaluate import write_result
from reslightning.files import printable


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
            write_result(path, text.getvalue())
            print(f"{len(rows):,} predictions written to {path}")
