"""The data sets, a row each: what the command line, fetch and the package know of them; without torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from reslightning.errors import UserError, near_misses

if TYPE_CHECKING:
    from reslightning.data.base import DataModule

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class DataSet(NamedTuple):
    """A row: the module of this folder that has the class, its name for ``fetch``, and the config it starts from.

    A class that can be fetched has ``fetch(to: Path) -> Path`` and reads what that leaves.
    """

    module: str
    fetch: str | None = None
    config: str | None = None  # none given means the class's name in lower case, where there is such a config


DATA_SETS = {
    "Digits": DataSet("digits"),
    "CIFAR10": DataSet("cifar", fetch="cifar10"),
    "CIFAR100": DataSet("cifar", fetch="cifar100"),
    "ImageNet": DataSet("imagenet"),
    "ImageFolder": DataSet("folder"),
}


def default_config(class_path: str) -> str:
    """Return the name of the config that a data set starts from; there may be none of that name."""
    name = class_path.rpartition(".")[2]
    return (name in DATA_SETS and DATA_SETS[name].config) or name.lower()


def fetchable() -> dict[str, str]:
    """Return the class names of the data sets that ``fetch`` gets, by their names there."""
    return {row.fetch: name for name, row in DATA_SETS.items() if row.fetch}


def outside() -> list[type[DataModule]]:
    """Return the data modules that are imported and not of this package."""
    from reslightning.data.base import DataModule

    found: list[type[DataModule]] = DataModule.__subclasses__()
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in found if not cls.__module__.startswith("reslightning.")]


def known(class_path: object) -> type[DataModule]:
    """Return the data set that a file names, anybody's perhaps: of other packages nothing is imported for it.

    Raises:
        UserError: it is neither a row of the table nor a data module that is imported already.
    """
    module, _, name = str(class_path).rpartition(".")
    if name in DATA_SETS and module in ("", "reslightning.data", f"reslightning.data.{DATA_SETS[name].module}"):
        return load(name)
    for cls in outside():
        if class_path == f"{cls.__module__}.{cls.__qualname__}":
            return cls
    raise UserError(
        f"the data set {class_path} is none of this package's, and its code is not imported for a file that names it\n"
        f"allowed: {', '.join(DATA_SETS)}, and data modules that are imported already"
    )


def load(class_path: str) -> type[DataModule]:
    """Import a data set: one of the table by its name, any other by its class path.

    Raises:
        UserError: there is no such class.
    """
    module, _, name = class_path.rpartition(".")
    if module in ("", "reslightning.data") and name in DATA_SETS:
        module = f"reslightning.data.{DATA_SETS[name].module}"
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        near = near_misses(class_path, DATA_SETS)
        raise UserError(f"unknown data set {class_path!r}{near}\nallowed: {', '.join(DATA_SETS)}") from error
