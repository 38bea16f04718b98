"""Files that torch or safetensors wrote, read without executing what a pickle contains."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from reslightning.errors import UserError

SUFFIXES = (".ckpt", ".pt", ".pth", ".th", ".bin", ".safetensors")


class Inert:
    """Stands for an object that is not weights: of whatever it is made, nothing is kept and nothing called."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _table(*args: object) -> dict[Any, Any]:
    return {}


def _row(*args: object) -> list[Any]:
    return []


SYSTEMS = ("Posix", "Windows", "PurePosix", "PureWindows")  # whose paths there are
# Plain objects that other people's checkpoints hold beside weights, by the names in the pickle, and what is called in
# their place. Theirs are not: numpy's own, for one, would take an address for an object if a pickle says so.
PLAIN: Mapping[str, Callable[..., Any]] = {
    "argparse.Namespace": Inert,
    "types.SimpleNamespace": Inert,
    **dict.fromkeys(("collections.defaultdict", "builtins.dict"), _table),
    **dict.fromkeys(("collections.deque", "builtins.list"), _row),
    **{f"builtins.{name}": Inert for name in ("bool", "float", "int", "str")},  # what a defaultdict is of
    **{f"datetime.{name}": Inert for name in ("date", "datetime", "timedelta")},
    **{f"numpy.{core}.multiarray.{made}": Inert for core in ("core", "_core") for made in ("scalar", "_reconstruct")},
    **{f"numpy.{name}": Inert for name in ("dtype", "ndarray")},
    **{f"pathlib.{home}{system}Path": Inert for home in ("", "_local.") for system in SYSTEMS},
}


def read_checkpoint(path: Path, plain: Mapping[str, Callable[..., Any]] | None = None) -> dict[str, Any]:
    """Read a file that torch or safetensors wrote, without executing what a pickle contains.

    Args:
        path: the file.
        plain: what is called for objects besides tensors and plain values, by their names: ``PLAIN`` for other people's
            files, of which the weights count. None refuses all such objects: nothing is lost.

    Raises:
        UserError: the file is truncated, is no such file, or contains other objects.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        allowed: list[Any] = [(stand_in, name) for name, stand_in in (plain or {}).items()]
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # advice to torch's developers about old pickles
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} holds pickled objects besides tensors ({named[1]}) and is not opened, since opening it could "
                "execute code; save its state_dict() alone, with torch.save"
            ) from error
        raise UserError(_unreadable(path)) from error
    except Exception as error:  # torch and safetensors raise many types for a damaged file
        raise UserError(_unreadable(path)) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict or a checkpoint")
    return content


def _unreadable(path: Path) -> str:
    return (
        f"{path} ({path.stat().st_size:,} bytes) is truncated or is no checkpoint: "
        f"expected a complete file written by torch.save or safetensors ({', '.join(SUFFIXES)})"
    )
