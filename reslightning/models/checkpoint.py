"""Files that torch or safetensors wrote, read without executing what a pickle contains."""

from __future__ import annotations

import json
import math
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from reslightning.errors import UserError

SUFFIXES = (".ckpt", ".pt", ".pth", ".th", ".bin", ".safetensors")
# Under which key a safetensors file of ours says what its weights are of, and in which form.
METADATA, FORMAT = "reslightning", 1
TOPS = ("top1", "top5")  # accuracies of a result
LARGEST = float(torch.finfo(torch.float32).max)
LARGEST_SIDE = 4096  # pixels of an image, as options of data have it


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

    A safetensors file that ``write_safetensors`` made has what a checkpoint has: its tensors as ``state_dict``, beside
    them its facts.

    Args:
        path: the file.
        plain: what is called for objects besides tensors and plain values, by their names: ``PLAIN`` for other people's
            files, of which the weights count. None refuses all such objects: nothing is lost.

    Raises:
        UserError: the file is truncated, is no such file, or contains other objects; or its facts are broken, or of a
            newer version.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open
            from safetensors.torch import load_file

            with safe_open(path, framework="pt") as file:
                said = (file.metadata() or {}).get(METADATA)
            return load_file(path) if said is None else {"state_dict": load_file(path), **_facts(said, path)}
        allowed: list[Any] = [(stand_in, name) for name, stand_in in (plain or {}).items()]
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # advice to torch's developers about old pickles
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
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


def write_safetensors(file: BinaryIO, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors, and what they are of as JSON in their metadata: ``read_checkpoint`` returns both.

    Args:
        file: where to.
        state: the network's state dict, by torchvision's names.
        facts: ``hyper_parameters`` with ``arch``, ``num_classes``, ``shortcut`` and ``version``; as far as they are
            known ``class_names``, ``class_ids``, ``normalisation``, ``sizes``; and others.
    """
    from safetensors.torch import save

    text = json.dumps({"format": FORMAT, **facts})
    file.write(save({name: value.contiguous() for name, value in state.items()}, {METADATA: text}))


def _facts(text: str, path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    form = facts.get("format") if isinstance(facts, dict) else None
    if isinstance(form, int) and form > FORMAT:
        raise UserError(
            f"{path} is of format {form}, and this version of reslightning knows {FORMAT}\nUse the version that made "
            "it."
        )
    _refuse(["what it is of"] if form != FORMAT else [], path)
    check_facts(facts, path)
    return {name: value for name, value in facts.items() if name != "format"}


def check_facts(facts: Mapping[str, Any], path: Path) -> None:
    """Raise UserError where what a file, anybody's perhaps, says besides its weights is not what it must be."""
    wrong = [name for name, right in KINDS.items() if not right(facts.get(name))]
    classes = [facts.get(name) for name in ("class_names", "class_ids")]
    if not wrong and any(one and len(one) != facts["hyper_parameters"]["num_classes"] for one in classes):
        wrong = ["its classes"]
    _refuse(wrong, path)


def _refuse(wrong: Sequence[str], path: Path) -> None:
    if wrong:
        raise UserError(
            f"{path} does not say rightly {', '.join(wrong)}: its metadata is broken\nExport it again (reslightning "
            "export), or save its tensors alone and give the network's options."
        )


def _is_network(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("arch"), str) and _is_count(value.get("num_classes"))


def _is_count(value: Any, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _are_texts(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _normalises(value: Any) -> bool:
    if value is None:
        return True
    given = [value.get(name) for name in ("mean", "std")] if isinstance(value, dict) else [None]
    three = all(isinstance(one, list) and len(one) == 3 and all(map(_is_number, one)) for one in given)
    return three and all(one > 0 for one in given[-1] or ())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _are_sizes(value: Any) -> bool:
    if value is None:
        return True
    pixels = {name: one for name, one in value.items() if name != "interpolation"} if isinstance(value, dict) else None
    if pixels is None or not all(one is None or _is_count(one, LARGEST_SIDE) for one in pixels.values()):
        return False
    return value.get("interpolation") in (None, "bilinear", "bicubic")


def _tells(value: Any) -> bool:
    if value is None:
        return True
    results = value.get("results") if isinstance(value, dict) and isinstance(value.get("of"), str) else None
    return isinstance(results, list) and _is_number(value.get("images", 0)) and all(map(_is_result, results))


def _is_result(value: Any) -> bool:
    if not isinstance(value, dict) or not all(_is_number(value.get(name)) for name in ("top1", "images")):
        return False
    return value["images"] >= 1 and all(_is_number(value.get(top, 0)) and 0 <= value.get(top, 0) <= 1 for top in TOPS)


# What facts that are read back, by others than who wrote them perhaps, must be.
KINDS: Mapping[str, Callable[[Any], bool]] = {
    "hyper_parameters": _is_network,
    "class_names": _are_texts,
    "class_ids": _are_texts,
    "normalisation": _normalises,
    "sizes": _are_sizes,
    "exif_orientation": lambda value: value is None or isinstance(value, bool),
    "trained": _tells,
}
