"""Whether an evaluation is what it seems: of unseen images, of the network and the classes that the weights are of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from reslightning.data.base import DataModule
from reslightning.errors import TrainingError, UserError
from reslightning.train.classifier import ImageClassifier


def check_range(metrics: Mapping[str, float]) -> None:
    """Raise TrainingError for a metric that cannot be."""
    for name, value in metrics.items():
        accuracy = name.rpartition("/")[2] in ("top1", "top5")
        if not math.isfinite(value) or (accuracy and not 0 <= value <= 1):
            raise TrainingError(f"{name} is {value}: the network's answers are no numbers")


def check_held_out(data: DataModule, split: str, trained: Mapping[str, Any]) -> None:
    """Raise UserError where images would be evaluated that the run trained on.

    A run holds out the first images of an order that its seed gives: the same order's first, and no more, are unseen.
    """
    if not data.holds_out(split):
        return
    options = (trained.get("data") or {}).get("init_args") or {}
    held, seed = options.get("val_split") or 0, trained.get("seed_everything", 0)
    if data.val_split > held or data.seed != seed:
        was = f"data.val_split={held} with seed {seed}" if held else "no data.val_split"
        raise UserError(
            f"data.val_split={data.val_split} with seed {data.seed} would evaluate images that the run trained on: it "
            f"had {was}\nLeave out --data.val_split and --seed_everything, or use `test`."
        )


def check_use(content: Mapping[str, Any], weights: str, model: ImageClassifier, data: DataModule) -> None:
    """Raise UserError where a checkpoint says that it is of other classes, or of another normalisation."""
    there, here = content.get("class_names"), list(data.class_names)
    if there is not None and list(there) != here:
        pairs = [(one, other) for one, other in zip(there, here, strict=False) if one != other]
        first = f": {pairs[0][0]!r} there, {pairs[0][1]!r} here" if pairs else ""
        raise UserError(
            f"{weights} was trained on {len(there)} classes, and {type(data).__name__} at {data.root} has {len(here)}, "
            f"not the same in the same order{first}\nGive the data it was trained for, or one with just its classes."
        )
    said = content.get("normalisation")
    given = {"mean": data.mean.tolist(), "std": data.std.tolist()}
    if said and any(not torch.allclose(torch.tensor(said[k]), torch.tensor(given[k]), atol=1e-6) for k in given):
        raise UserError(
            f"{weights} was trained with mean {_rounded(said['mean'])} and std {_rounded(said['std'])}, and is "
            f"evaluated with {_rounded(given['mean'])} and {_rounded(given['std'])}\nGive --data.mean and "
            "--data.std as they were."
        )


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
