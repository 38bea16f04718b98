"""A trained network, and what there is to say of it: of which run, trained on what, with which result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reslightning import __version__
from reslightning.data.progress import finished_epochs
from reslightning.errors import UserError
from reslightning.evaluation.checks import known_classes
from reslightning.files import read_json
from reslightning.models.architectures import resolve_options
from reslightning.models.foreign import read_weights
from reslightning.models.resnet import build_model
from reslightning.models.weights import read_source, torchvision_weights
from reslightning.run import layout
from reslightning.run.record import RunRecord, run_of, weights_file
from reslightning.run.summary import is_number
from reslightning.train.restored import configured, seen

SIZES = ("image_size", "eval_resize", "eval_size", "interpolation")


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


def read_trained(source: str, arch: str | None = None) -> Trained:
    """Return the network that a run or weights are of.

    Args:
        source: a run directory or a checkpoint, an exported one too; or other weights, see ``load_weights``.
        arch: the network's name, where the weights do not say it.

    Raises:
        UserError: there are no weights, or they do not say of which network they are, or of another.
    """
    place = weights_file(source)
    if place.startswith("torchvision:"):
        entry = torchvision_weights(place, arch)
        content: Mapping[str, Any] = _of_torchvision(entry)
    else:
        content = read_source(place, arch or "")[0]
    given = _network(content, place, arch)
    network = build_model(**given, weights=place).eval()
    run = None if place.startswith(("torchvision:", "hf:")) else run_of(Path(place).expanduser().absolute())
    return Trained(network, _facts(content, place, given, run), run)


def _of_torchvision(entry: Any) -> dict[str, Any]:
    """Return what torchvision says of its weights, as a checkpoint would."""
    images = entry.transforms()
    return {
        "hyper_parameters": {"arch": entry.__class__.__name__.removesuffix("_Weights").lower(), "num_classes": 1000},
        "normalisation": {"mean": list(images.mean), "std": list(images.std)},
        "sizes": dict(
            zip(
                SIZES,
                (*images.crop_size, *images.resize_size, *images.crop_size, images.interpolation.value),
                strict=True,
            )
        ),
    }


def _network(content: Mapping[str, Any], place: str, arch: str | None) -> dict[str, Any]:
    """Return arch, num_classes, shortcut and version."""
    said = content.get("hyper_parameters")
    if not isinstance(said, Mapping) or "arch" not in said:
        if arch is None:
            raise UserError(
                f"{place} does not say of which network its weights are\nGive a run or a checkpoint of one, or the "
                "network's name: --arch resnet50, say (`reslightning models` lists them)."
            )
        head = list(build_model(arch).state_dict())[-1]  # the final layer's, whose outputs are the classes
        state = read_weights(content, place).state
        said = {"arch": arch} | ({"num_classes": len(state[head])} if head in state else {})
    if arch not in (None, said["arch"]):
        raise UserError(f"{place} is of {said['arch']}, not of {arch}\nLeave out --arch: it says so itself.")
    network = resolve_options(said["arch"], said.get("shortcut"), said.get("version"))
    return {
        "arch": said["arch"],
        "num_classes": said.get("num_classes") or network.num_classes,
        "shortcut": network.shortcut,
        "version": network.version,
    }


def _facts(content: Mapping[str, Any], place: str, network: Mapping[str, Any], run: Path | None) -> dict[str, Any]:
    ids, names = known_classes(content, place)
    known = {name: content.get(name) for name in ("normalisation", "sizes", "exif_orientation", "trained")}
    if run:
        said = seen(run, content)
        names = names or said["class_names"] or []
        if said["mean"] is not None:
            known["normalisation"] = {name: said[name] for name in ("mean", "std")}
        if said["image_size"] is not None:
            known["sizes"] = {name: said[name] for name in SIZES}
        known |= _of_run(run, content)
    elif known["trained"] is None:
        known["trained"] = {"of": place if ":" in place else Path(place).name, "results": []}
    found = {
        "hyper_parameters": dict(network),
        "class_names": list(names) or None,
        "class_ids": list(ids) if ids else None,
        **known,
        "versions": {"reslightning": __version__, "torch": str(torch.__version__)},
    }
    return {name: value for name, value in found.items() if value is not None}


def _of_run(run: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    record = RunRecord.from_directory(run)
    summary = record.summary
    data = summary.get("fingerprint", {}).get("data")
    facts = {
        "of": summary.get("run_id") or record.name,
        "run": record.name,
        "dataset": summary.get("dataset"),
        "images": (summary.get("n_samples") or {}).get("train"),
        "data": data["digest"] if data else None,
        "licence": getattr(type(configured(run / layout.CONFIG)), "licence", None),
        "seed": summary.get("seed"),
        "epoch": finished_epochs(dict(content)) if "loops" in content else None,
        "results": _results(run, record, content),
    }
    trained = {name: value for name, value in facts.items() if value is not None}
    return {"exif_orientation": summary.get("exif_orientation"), "trained": trained}


def _results(run: Path, record: RunRecord, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is known of just these weights: a row for the validation and for each whole evaluation of them."""
    if "loops" not in content:
        return []
    summary, reached = record.summary, (finished_epochs(dict(content)), content["global_step"])
    rows = [row for row in record.history if (row["epoch"], row.get("step")) == reached and "val/top1" in row]
    found = [
        _result(row, "val", summary.get("val_part") or summary.get("val_source"), summary.get("protocol"))
        for row in rows
    ]
    for file in sorted((run / layout.EVALUATIONS).glob("*.json")):
        one, whole = read_json(file)
        images, same = one.get("images") or {}, reached == (one.get("epoch"), one.get("global_step"))
        as_it_is = not one.get("differences") and not one.get("recalibrated")
        if whole and same and as_it_is and images.get("evaluated") == images.get("of"):
            found.append(_result(one.get("metrics") or {}, one.get("split"), one.get("part"), one.get("protocol")))
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
        data.download, data.stage_to = False, None
        data.upright = bool(trained.facts.get("exif_orientation", data.upright))
        try:
            data.setup()
            images = len(data.labels("test"))
            chosen = np.linspace(0, images - 1, min(count, images), dtype=int)
            found = np.stack([data.picture("test", int(number)) for number in chosen])
            words = f"{len(found)} test images of {type(data).__name__}"
            return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous(), words
        except (UserError, OSError, ValueError):  # gone, moved, or without labelled test images
            pass
    size = trained.image_size
    made = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return made, f"{count} images of noise, for want of the run's test images"
