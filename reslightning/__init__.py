"""Residual networks trained with Lightning, on a laptop and on a cluster (arXiv:1512.03385)."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["ImageClassifier", "build_model", "list_architectures"]

_HOMES = {
    "ImageClassifier": "reslightning.train.classifier",
    "build_model": "reslightning.train.build",
    "list_architectures": "reslightning.models.architectures",
}


def __getattr__(name: str) -> Any:
    # Importing the package must not import torch: --help answers without it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
