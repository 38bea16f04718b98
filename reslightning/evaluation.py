"""What validate, test and predict do with weights, and where they write what came out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from reslightning.classifier import ImageClassifier
from reslightning.data.base import DataModule, prepare
from reslightning.errors import UserError
from reslightning.files import write_atomically
from reslightning.identity import differences
from reslightning.models.weights import read_checkpoint
from reslightning.progress import finished_epochs
from reslightning.provenance import mixed_code, versions
from reslightning.reference import published
from reslightning.runs import Run


def evaluate(
    trainer: Trainer,
    model: ImageClassifier,
    data: DataModule,
    split: Literal["val", "test"],
    *,
    weights: str,
    run: Run | None,
    config: Mapping[str, Any],
    trained: Mapping[str, Any] | None,
) -> None:
    """Evaluate a split, print the errors, and write them into the run's evaluations folder.

    Args:
        trainer: where it runs.
        model: the network with its weights.
        data: the data module.
        split: val or test.
        weights: where the weights came from, for the record.
        run: the run directory the weights belong to, if any.
        config: this command's configuration.
        trained: the configuration that the weights were trained with, if known.
    """
    prepare(data)
    call = trainer.validate if split == "val" else trainer.test
    call(model, datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return
    metrics = {name: value for name, value in model.metrics.items() if name.startswith(f"{split}/")}
    protocol = model.protocol(data)
    print(f"{type(data).__name__} {split}, {metrics[f'{split}/n_samples']:,} images, {protocol}; weights: {weights}")
    for top in ("top1", "top5"):
        if (accuracy := metrics.get(f"{split}/{top}")) is not None:
            print(f"  top-{top[3:]} error {100 * (1 - accuracy):.2f} %{_beside(model, data, top)}")
    print(f"  loss {metrics[f'{split}/loss']:.4f}")
    if run is None:
        return
    mixed = mixed_code(run.summary)
    if mixed:
        print(f"  {mixed}")
    record = {
        "format": 1,
        "split": split,
        "protocol": protocol,
        "checkpoint": weights,
        **_reached(weights),
        "arch": model.arch,
        "dataset": type(data).__name__,
        "metrics": metrics,
        "world_size": trainer.world_size,
        "precision": trainer.precision,
        "differences": [line.strip() for line in differences(trained, config)] if trained else [],
        "versions": versions(),
        "mixed_code": mixed,
    }
    path = run.directory / "evaluations" / f"{split}-{protocol}.json"
    _write(path, json.dumps(record, indent=2) + "\n")
    print(f"  written to {path}")


def _reached(weights: str) -> dict[str, int | None]:
    content = read_checkpoint(Path(weights)) if Path(weights).is_file() else {}
    if "loops" not in content:
        return {"epoch": None, "global_step": None}
    return {"epoch": finished_epochs(content), "global_step": content["global_step"]}


def _beside(model: ImageClassifier, data: DataModule, top: str) -> str:
    options = (model.hparams["shortcut"], model.hparams["version"])
    images = data.n_samples("test")
    known = published(model.arch, type(data).__name__, model.protocol(data), *options, images=images)
    value = getattr(known, top) if known else None
    return "" if known is None or value is None else f"   (published: {value:.2f} %, {known.source})"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


class PredictionWriter(BasePredictionWriter):
    """Writes index, label, predicted class and all probabilities of every image, one row each."""

    def __init__(self, path: Path) -> None:
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
            names = trainer.datamodule.class_names  # type: ignore[attr-defined]
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["index", "label", "prediction", *names])
            writer.writerows(sorted(rows))
            _write(self.path, text.getvalue())
            print(f"{len(rows):,} predictions written to {self.path}")
