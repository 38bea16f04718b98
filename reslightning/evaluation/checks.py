"""Whether an evaluation is what it seems: of unseen images, of the network and the classes that the weights are of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from reslightning.data.base import DataModule
from reslightning.data.indexing import some
from reslightning.data.labels import imagenet_classes
from reslightning.data.registry import Split
from reslightning.errors import TrainingError, UserError
from reslightning.files import printable


def check_range(metrics: Mapping[str, float]) -> None:
    """Raise TrainingError for a metric that cannot be."""
    for name, value in metrics.items():
        accuracy = name.rpartition("/")[2] in ("top1", "top5", "balanced", "calibration")
        if not math.isfinite(value) or (accuracy and not 0 <= value <= 1):
            raise TrainingError(f"{name} is {value}: the network's answers are no numbers")


def check_held_out(data: DataModule, split: Split, trained: Mapping[str, Any]) -> None:
    """Raise UserError where images would be evaluated that the run trained on.

    A run holds out the first images of an order that its seed gives: the same order's first, and no more, are unseen.
    """
    if data.part(split) != "train":
        return
    options = (trained.get("data") or {}).get("init_args") or {}
    held, seed = options.get("val_split") or 0, trained.get("seed_everything", 0)
    if data.val_split > held or data.seed != seed:
        was = f"data.val_split={held} with seed {seed}" if held else "no data.val_split"
        raise UserError(
            f"data.val_split={data.val_split} with seed {data.seed} would evaluate images that the run trained on: it "
            f"had {was}\nLeave out --data.val_split and --seed_everything, or use `test`."
        )


def known_classes(content: Mapping[str, Any], weights: str) -> tuple[Sequence[str] | None, Sequence[str]]:
    """Return the ids, if they are known, and the names of the classes that weights were trained on; none of bare ones.

    Args:
        content: the checkpoint's, if it is one.
        weights: where the weights are from; torchvision's are of ImageNet.
    """
    names = list(imagenet_classes().values())
    if weights.startswith("torchvision:") or content.get("class_names") == names:
        return list(imagenet_classes()), names
    return content.get("class_ids"), content.get("class_names") or []


def check_use(content: Mapping[str, Any], weights: str, data: DataModule, split: Split) -> None:
    """Make sure that weights are used as they were trained, with a split's classes matched by their names.

    Raises:
        UserError: a class is none of the weights', or the images are normalised otherwise.
    """
    ids, names = known_classes(content, weights)
    if names:
        _match(ids or names, names, list(data.class_ids if ids else data.class_names), weights, data, split)
    said = content.get("normalisation")
    given = {"mean": data.mean.tolist(), "std": data.std.tolist()}
    if said and any(not torch.allclose(torch.tensor(said[k]), torch.tensor(given[k]), atol=1e-6) for k in given):
        raise UserError(
            f"{weights} was trained with mean {_rounded(said['mean'])} and std {_rounded(said['std'])}, and is "
            f"evaluated with {_rounded(given['mean'])} and {_rounded(given['std'])}\nGive --data.mean and "
            "--data.std as they were."
        )


def _match(
    there: Sequence[str], names: Sequence[str], here: Sequence[str], weights: str, data: DataModule, split: Split
) -> None:
    if list(there) == here:
        return
    columns = [there.index(name) if there.count(name) == 1 else -1 for name in here]
    unknown = [printable(here[label]) for label in data.labels(split).unique().tolist() if columns[label] < 0]
    if unknown:
        raise UserError(
            f"{weights} knows {len(there)} classes ({some(map(printable, there))}), and not these of "
            f"{type(data).__name__} at {data.root}: {some(unknown)}\nGive the data that it was trained for, or some of "
            "its classes."
        )
    data.answer_in(names, columns)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
