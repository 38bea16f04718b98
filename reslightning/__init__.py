"""Residual networks trained with Lightning, on a laptop and on a cluster (arXiv:1512.03385)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers
    from reslightning.models.architectures import list_architectures as list_architectures
    from reslightning.run.record import load_runs as load_runs
    from reslightning.train.build import build_model as build_model
    from reslightning.train.build import load as load
    from reslightning.train.classifier import ImageClassifier as ImageClassifier

__version__ = "0.1.0"
__all__ = ["ImageClassifier", "build_model", "data", "list_architectures", "load", "load_runs"]

_HOMES = {
    "ImageClassifier": "reslightning.train.classifier",
    "build_model": "reslightning.train.build",
    "list_architectures": "reslightning.models.architectures",
    "load": "reslightning.train.build",
    "load_runs": "reslightning.run.record",
}


def __getattr__(name: str) -> Any:
    # Importing the package must not import torch: --help answers without it.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
