"""What a run's network was trained to see, as its checkpoint, its summary or its configuration says."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reslightning.data import registry
from reslightning.data.base import DataModule
from reslightning.errors import Assumed, UserError
from reslightning.models.checkpoint import check_facts
from reslightning.run import layout
from reslightning.run.record import read_summary
from reslightning.run.summary import believe

SIZES = ("image_size", "eval_resize", "eval_size", "interpolation")
SEEN = ("class_names", "mean", "std", *SIZES)
INSTEAD = dict.fromkeys(("mean", "std"), "ImageNet's mean and standard deviation")
INSTEAD |= {"class_names": "numbers as names", **dict.fromkeys(SIZES, "usual sizes")}


def seen(directory: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return class names, normalisation and sizes; None, with a warning, for what nothing says.

    Args:
        directory: the run directory.
        checkpoint: one of its checkpoints; those of versions before lack some of it.
    """
    check_facts(checkpoint, directory)
    summary, _ = believe(read_summary(directory) or {})
    content = (summary.get("fingerprint") or {}).get("data")
    classes = checkpoint.get("class_names") or (content and content.get("classes"))
    known = {**(checkpoint.get("normalisation") or {}), **(checkpoint.get("sizes") or {})}
    known |= {"class_names": list(classes)} if classes else {}
    if not known.keys() >= set(SEEN) and (data := configured(directory / layout.CONFIG)):
        names = getattr(type(data), "class_names", None)  # a folder's would be looked for on the disk
        options = {"mean": data.mean.tolist(), "std": data.std.tolist(), **data.sizes}
        known = options | ({"class_names": list(names)} if isinstance(names, tuple | list) else {}) | known
    if unknown := [name for name in SEEN if name not in known]:
        instead = "; ".join(dict.fromkeys(INSTEAD[name] for name in unknown))
        line = f"neither checkpoint nor config.yaml says {', '.join(unknown)}; taken where needed: {instead}"
        warnings.warn(f"{directory}: {line}", Assumed, stacklevel=5)
    upright = checkpoint.get("exif_orientation", summary.get("exif_orientation"))
    return {name: known.get(name) for name in SEEN} | {"exif_orientation": upright}


def configured(config: Path) -> DataModule | None:
    """Return the data module that a config.yaml means, unread, as ``of_config``; None where it cannot be known."""
    try:
        return of_config(yaml.safe_load(config.read_text()))
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError, UserError):
        return None


def of_config(config: Mapping[str, Any], **options: Any) -> DataModule:
    """Return the data module of a config that may be anybody's: it downloads and copies nothing.

    Args:
        config: the content of a config.yaml.
        options: of the data module, instead of those there.

    Raises:
        UserError: its class is none that ``registry.known`` accepts, or does not take its options.
    """
    data = registry.known(config["data"]["class_path"])(**(config["data"].get("init_args") or {}) | options)
    vars(data).update(download=False, stage_to=None)
    return data
