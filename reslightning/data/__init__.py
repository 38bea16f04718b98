"""Data sets by class name: ``Digits``, ``CIFAR10``, ``CIFAR100``, ``ImageNet``, ``ImageFolder``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslightning.data.base import DataModule
    from reslightning.data.cifar import CIFAR10, CIFAR100
    from reslightning.data.digits import Digits
    from reslightning.data.imagenet import ImageFolder, ImageNet

__all__ = ["CIFAR10", "CIFAR100", "DataModule", "Digits", "ImageFolder", "ImageNet"]

_MODULES = {
    "CIFAR10": "cifar",
    "CIFAR100": "cifar",
    "DataModule": "base",
    "Digits": "digits",
    "ImageFolder": "imagenet",
    "ImageNet": "imagenet",
}


def __getattr__(name: str) -> Any:
    """Import a data set when it is first named: packing files needs no Lightning."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"reslightning.data.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
