"""A trained network, and what there is to say of it: of which run, trained on what, with which result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reslightning.errors import UserError
from reslightning.evaluation.checks import known_classes
from reslightning.files import read_json
from reslightning.models.architectures import Norm, Shortcut, Version, resolve_options
from reslightning.models.weights import read_source
from reslightning.run import layout
from reslightning.run.provenance import versions
from reslightning.run.record import RunRecord, run_of, weights_file
from reslightning.run.summary import is_number
from reslightning.train.classifier import ImageClassifier
from reslightning.train.pretrained import from_weights
from reslightning.train.restored import SIZES, configured

PARTS = {**dict.fromkeys(("train", "held-out"), "held-out training images"), "val": "validation images"}
PARTS |= {"test": "test images"}


@dataclass(frozen=True)
class Trained:
    """A network as an evaluation uses it, and what it is.

    Attributes:
        network: in evaluation mode, float32, on the CPU.
        facts: what ``write_safetensors`` writes; besides what is named there ``exif_orientation`` and ``trained``: the
            run, its data, epoch and results. What is not known is left out.
        run: the run directory, if it has one.
    """

    network: nn.Module
    facts: dict[str, Any]
    run: Path | None

    @property
    def image_size(self) -> int:
        """Height and width in pixels of what the network is given."""
        usual = resolve_options(self.facts["hyper_parameters"]["arch"], None, None).image_size
        return int((self.facts.get("sizes") or {}).get("image_size") or usual)

    def normalisation(self) -> tuple[Tensor, Tensor] | None:
        """Return mean and standard deviation [3] of the channels of images in [0, 1]; None where they are not known."""
        known = self.facts.get("normalisation")
        return (torch.tensor(known["mean"]), torch.tensor(known["std"])) if known else None


def read_trained(
    source: str,
    arch: str | None = None,
    shortcut: Shortcut | None = None,
    version: Version | None = None,
    norm: Norm | None = None,
) -> Trained:
    """Return the network that a run or weights are of.

    Args:
        source: a run directory or a checkpoint, an exported one too; or other weights, see ``load_weights``.
        arch: the network, where the weights do not say it and fit several.
        shortcut: the same.
        version: the same.
        norm: the same.

    Raises:
        UserError: there are no weights, or they do not say of which network they are, or of another.
    """
    place, assumed = weights_file(source), list[str]()
    model = from_weights(place, arch=arch, shortcut=shortcut, version=version, norm=norm, say=assumed.append)
    elsewhere = place.startswith(("torchvision:", "hf:"))
    content = {} if place.startswith("torchvision:") else read_source(place, model.arch)[0]
    run = None if elsewhere else run_of(Path(place).expanduser().absolute())
    known = {name: content.get(name) for name in ("exif_orientation", "trained")}
    if run:
        known |= _of_run(run, Path(place).name, content)
    elif known["trained"] is None:
        name = place if elsewhere else Path(place).name
        known["trained"] = {"of": name, "results": [], "assumed": [line.replace(place, name) for line in assumed]}
    facts = _seen(model) | {"class_ids": known_classes(content, place)[0], **known, "versions": versions()}
    network = model.model.to(memory_format=torch.contiguous_format)
    return Trained(network, {name: value for name, value in facts.items() if value is not None}, run)


def _seen(model: ImageClassifier) -> dict[str, Any]:
    """Return which network it is, with what its defaults are, and what it was trained to see."""
    given = model.hparams
    network = resolve_options(model.arch, given["shortcut"], given["version"], given["norm"])
    sizes = {name: getattr(model, name) for name in SIZES}
    return {
        "hyper_parameters": {
            "arch": model.arch,
            "num_classes": model.num_classes,
            "shortcut": network.shortcut,
            "version": network.version,
            **({"norm": "none"} if given["norm"] == "none" else {}),
            **({"test_flip": True} if given["test_flip"] else {}),
        },
        "class_names": model.class_names,
        "normalisation": None if model.mean is None else {"mean": model.mean.tolist(), "std": model.std.tolist()},
        "sizes": sizes if sizes["image_size"] else None,
    }


def _of_run(run: Path, checkpoint: str, content: Mapping[str, Any]) -> dict[str, Any]:
    record = RunRecord.from_directory(run)
    summary = record.summary
    fingerprint, options = summary.get("fingerprint") or {}, summary.get("options") or {}
    data = fingerprint.get("data")
    started = options.get("model.weights")
    if started and not str(started).startswith(("torchvision:", "hf:")):
        started = Path(str(started)).name  # where it lay is nobody's business
    facts = {
        "of": summary.get("run_id") or record.name,
        "run": record.name,
        "dataset": summary.get("dataset"),
        "images": (summary.get("n_samples") or {}).get("train"),
        "data": data["digest"] if data else None,
        "licence": getattr(type(configured(run / layout.CONFIG)), "licence", None),
        "started_from": started,
        "weights": fingerprint.get("weights"),
        "seed": summary.get("seed"),
        "precision": options.get("trainer.precision"),
        "checkpoint": checkpoint,
        "epoch": next(
            (int(row["epoch"]) for row in record.history if row.get("step") == content.get("global_step")), None
        ),
        "results": _results(run, record, content),
    }
    trained = {name: value for name, value in facts.items() if value is not None}
    return {"exif_orientation": summary.get("exif_orientation"), "trained": trained}


def _results(run: Path, record: RunRecord, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is known of just these weights: a row for the validation and for each whole evaluation of them."""
    if (step := content.get("global_step")) is None:
        return []
    part, protocol = (record.summary.get(name) for name in ("val_part", "protocol"))
    rows = [row for row in record.history if row.get("step") == step and "val/top1" in row]
    found = [_result(row, "val", part or record.summary.get("val_source"), protocol) for row in rows]
    for file in sorted((run / layout.EVALUATIONS).glob("*.json")):
        one, whole = read_json(file)
        images, metrics = one.get("images"), one.get("metrics")
        if not (whole and isinstance(images, dict) and isinstance(metrics, dict) and one.get("global_step") == step):
            continue
        if images.get("evaluated") == images.get("of") and not one.get("differences") and not one.get("recalibrated"):
            found.append(_result(metrics, one.get("split"), one.get("part"), one.get("protocol")))
    found = [row for row in found if {"top1", "images"} <= row.keys()]
    return [row for number, row in enumerate(found) if row not in found[:number]]


def _result(metrics: Mapping[str, Any], split: Any, part: Any, protocol: Any) -> dict[str, Any]:
    """Return accuracies in [0, 1] and their number of images, of an official part by a protocol."""
    named = {"top1": "top1", "top5": "top5", "n_samples": "images"}
    values = {name: metrics.get(f"{split}/{key}") for key, name in named.items()}
    return {"part": part, "protocol": protocol} | {name: value for name, value in values.items() if is_number(value)}


def pictures(trained: Trained, count: int) -> tuple[Tensor, str]:
    """Return images [N, 3, H, W], uint8, as the network is given them, and in words what they are.

    They are of the run's test part, from its beginning to its end, where its data is there, else made up.
    """
    data: Any = configured(trained.run / layout.CONFIG) if trained.run else None
    if data is not None:
        data.upright = bool(trained.facts.get("exif_orientation", data.upright))
        try:
            data.setup()
            images = len(data.labels("test"))
            chosen = np.linspace(0, images - 1, min(count, images), dtype=int)
            found = np.stack([data.picture("test", int(number)) for number in chosen])
            words = f"{len(found)} {PARTS[data.part('test')]} of {type(data).__name__}"
            return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous(), words
        except (UserError, OSError, ValueError):  # gone, moved, or without labelled test images
            pass
    size = trained.image_size
    made = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return made, f"{count} images of noise, for want of the run's test images"
