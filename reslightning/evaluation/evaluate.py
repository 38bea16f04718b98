"""What validate and test do with weights, and where they write what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer

from reslightning.data.base import DataModule, prepare
from reslightning.data.progress import finished_epochs
from reslightning.errors import UserError
from reslightning.files import write_atomically
from reslightning.models.published import published
from reslightning.models.weights import read_checkpoint
from reslightning.run.directory import Run
from reslightning.run.identity import differences
from reslightning.run.provenance import mixed_code, versions
from reslightning.run.summary import error_percent
from reslightning.train.classifier import ImageClassifier
from reslightning.train.messages import majority_error


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
    _say(model, data, split, metrics, weights)
    if run is None:
        return
    if mixed := mixed_code(run.summary):
        print(f"  {mixed}")
    record = {
        "format": 1,
        "split": split,
        **_facts(trainer, model, data, weights),
        "metrics": metrics,
        "differences": [line.strip() for line in differences(trained, config)] if trained else [],
        "mixed_code": mixed,
    }
    path = run.evaluations / f"{split}-{model.protocol(data)}.json"
    write_result(path, json.dumps(record, indent=2) + "\n")
    print(f"  written to {path}")


def _facts(trainer: Trainer, model: ImageClassifier, data: DataModule, weights: str) -> dict[str, Any]:
    return {
        "protocol": model.protocol(data),
        "checkpoint": weights,
        **_reached(weights),
        "arch": model.arch,
        "dataset": type(data).__name__,
        "fingerprint": {"data": data.content()["digest"], "weights": model.weights_digest},
        "exif_orientation": data.upright,
        "world_size": trainer.world_size,
        "precision": trainer.precision,
        "versions": versions(),
    }


def _say(model: ImageClassifier, data: DataModule, split: str, metrics: Mapping[str, float], weights: str) -> None:
    images, protocol = metrics[f"{split}/n_samples"], model.protocol(data)
    print(f"{type(data).__name__} {split}, {images:,} images, {protocol}; weights: {weights}")
    for top in ("top1", "top5"):
        if (accuracy := metrics.get(f"{split}/{top}")) is not None:
            print(f"  top-{top[3:]} error {error_percent(accuracy):.2f} %{_beside(model, data, top)}")
    if (error := majority_error(data.majority(split), data.num_classes)) is not None:  # type: ignore[arg-type]
        print(f"  always the most frequent class: {error:.2f} %")
    print(f"  loss {metrics[f'{split}/loss']:.4f}")


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


def write_result(path: Path, text: str) -> None:
    """Write a result whole, and raise UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
