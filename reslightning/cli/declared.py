"""The options of ``fit`` with their types, read from the sources: importing these would import torch."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Optional, Union

from reslightning.ranges import SEED, Range, parameters
from reslightning.track.wandb_settings import Wandb

PACKAGE = Path(__file__).resolve().parents[1]
# What the Trainer would take, and no training can be.
TRAINING = {
    "max_epochs": Range("epochs, 1 or more"),
    "min_epochs": Range("epochs, 0 or more"),
    "check_val_every_n_epoch": Range("epochs, 1 or more"),
    "accumulate_grad_batches": Range("1 or more"),
    "gradient_clip_val": Range("0 or more"),
    "log_every_n_steps": Range("steps, 0 or more"),
    "overfit_batches": Range("batches, or a fraction: 0 or more"),
}
WORDS: dict[str, Any] = {
    **{one.__name__: one for one in (bool, int, float, str, list, tuple, Range)},
    **{"Annotated": Annotated, "Any": Any, "Literal": Literal, "Optional": Optional, "Union": Union},
}


def declared() -> dict[str, Any]:
    """Return every option of ``fit``, dotted, with its type: Any where the sources alone do not say it.

    An option that several data sets have has the type of one of them.
    """
    classifier, optim = PACKAGE / "train" / "classifier.py", PACKAGE / "train" / "optim.py"
    found = {"seed_everything": Annotated[int, SEED], "data": Any, "data.class_path": Any}
    found |= _named("model", _arguments(classifier, "ImageClassifier"))
    found |= _named("model.optim", _fields(optim, "Optim")) | _named("model.schedule", _fields(optim, "Schedule"))
    found |= _named("wandb", parameters(Wandb))
    for path, name in _data_modules():
        found |= _named("data", _arguments(path, name))
    trainer = _arguments(_trainer(), "Trainer")
    return found | _named("trainer", trainer | {name: Annotated[trainer[name], TRAINING[name]] for name in TRAINING})


def _named(group: str, types: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{group}.{name}": kind for name, kind in types.items()}


def _data_modules() -> list[tuple[Path, str]]:
    """Return file and name of every class that derives from DataModule, in whichever file."""
    bases = {
        (path, name): {ast.unparse(base) for base in node.bases}
        for path in (PACKAGE / "data").glob("*.py")
        for name, node in _classes(path).items()
    }
    found = {"DataModule"}
    while new := {name for (_, name), names in bases.items() if names & found} - found:
        found |= new
    return [(path, name) for path, name in bases if name in found]


def _trainer() -> Path:
    # Looking for a submodule would import its parents.
    found = importlib.util.find_spec("lightning")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "pytorch" / "trainer" / "trainer.py"


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _classes(path: Path) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in _tree(path).body if isinstance(node, ast.ClassDef)}


def _arguments(path: Path, name: str) -> dict[str, Any]:
    for node in _classes(path)[name].body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = [*node.args.args, *node.args.kwonlyargs]
            return {one.arg: _value(one.annotation, path) for one in arguments if one.arg != "self"}
    return {}


def _fields(path: Path, name: str) -> dict[str, Any]:
    fields = [node for node in _classes(path)[name].body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: _value(node.annotation, path) for node in fields if isinstance(node.target, ast.Name)}


def _value(node: ast.expr | None, path: Path) -> Any:
    """Return what an expression of this package's, or of Lightning's, is; Any where more than types must be known."""
    with contextlib.suppress(NameError, AttributeError, TypeError):
        return eval(ast.unparse(node), WORDS | _module(path)) if node else Any
    return Any


@cache
def _module(path: Path) -> dict[str, Any]:
    """Return a module's ranges and types, also those that it imports, and its tables without their rows' contents."""
    found: dict[str, Any] = {}
    for node in _tree(path).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("reslightning"):
            folder = PACKAGE.parent.joinpath(*str(node.module).split("."))
            for alias in node.names:
                if (module := folder / f"{alias.name}.py").is_file():
                    found[alias.asname or alias.name] = SimpleNamespace(**_module(module))
                elif (module := folder.with_suffix(".py")).is_file() and alias.name in (there := _module(module)):
                    found[alias.asname or alias.name] = there[alias.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(node.value, ast.Dict):
                keys = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
                found[ast.unparse(target)] = dict.fromkeys(keys)
            elif ast.unparse(node.value).startswith(("Range(", "Literal[")):
                with contextlib.suppress(NameError):
                    found[ast.unparse(target)] = eval(ast.unparse(node.value), WORDS | found)
    return found
