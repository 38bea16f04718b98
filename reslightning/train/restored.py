"""What a run's network was trained to see, as its checkpoint, its summary or its configuration says."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reslightning.data import registry
from reslightning.data.base import DataModule
from reslightning.errors import UserError
from reslightning.run import layout
from reslightning.run.record import read_summary

SEEN = ("class_names", "mean", "std", "image_size", "eval_resize", "eval_size", "interpolation")


def seen(directory: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return class names, normalisation and sizes; None, with a warning, for what nothing says.

    Args:
        directory: the run directory.
        checkpoint: one of its checkpoints; those of versions before lack some of it.
    """
    summary = read_summary(directory) or {}
    classes = checkpoint.get("class_names") or summary.get("fingerprint", {}).get("data", {}).get("classes")
    known = {**checkpoint.get("normalisation", {}), **checkpoint.get("sizes", {})}
    known |= {"class_names": list(classes)} if classes else {}
    if not known.keys() >= set(SEEN) and (data := configured(directory / layout.CONFIG)):
        names = getattr(type(data), "class_names", None)  # a folder's would be looked for on the disk
        options = {"mean": data.mean.tolist(), "std": data.std.tolist(), **data.sizes}
        known = options | ({"class_names": list(names)} if isinstance(names, tuple | list) else {}) | known
    if unknown := [name for name in SEEN if name not in known]:
        warnings.warn(f"{directory}: neither checkpoint nor config.yaml says {', '.join(unknown)}", stacklevel=5)
    upright = checkpoint.get("exif_orientation", summary.get("exif_orientation"))
    return {name: known.get(name) for name in SEEN} | {"exif_orientation": upright}


def configured(config: Path) -> DataModule | None:
    """Return the data module that a config.yaml means, unread; None where it cannot be known."""
    try:
        data = yaml.safe_load(config.read_text())["data"]
        return registry.load(data["class_path"])(**data.get("init_args", {}))
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, UserError):
        return None
