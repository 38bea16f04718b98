"""Data sets by class name, those of the registry: ``Digits``, ``CIFAR10``, ..., and ``DataModule``, their base."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from reslightning.data.registry import DATA_SETS

if TYPE_CHECKING:  # for editors and type checkers
    from reslightning.data.base import DataModule as DataModule
    from reslightning.data.cifar import CIFAR10 as CIFAR10
    from reslightning.data.cifar import CIFAR100 as CIFAR100
    from reslightning.data.digits import Digits as Digits
    from reslightning.data.folder import ImageFolder as ImageFolder
    from reslightning.data.imagenet import ImageNet as ImageNet

__all__ = ["DataModule", *DATA_SETS]


def __getattr__(name: str) -> Any:
    """Import a data set when it is first named: packing files needs no Lightning."""
    module = "base" if name == "DataModule" else DATA_SETS[name].module if name in DATA_SETS else None
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"reslightning.data.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
