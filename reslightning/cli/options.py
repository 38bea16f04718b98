"""Which options ``fit`` has, read from the sources, so that a typo is found without importing torch."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse.typing import NonNegativeFloat

from reslightning.cli.configs import arrange, last_value, load_config
from reslightning.data import registry
from reslightning.errors import UserError, near_misses
from reslightning.models.architectures import get_architecture
from reslightning.ranges import parameters
from reslightning.track.wandb_settings import Wandb

PACKAGE = Path(__file__).resolve().parents[1]
# Classes whose own options, and lists of classes, may stand below these.
OPEN = tuple(f"trainer.{name}" for name in ("callbacks", "logger", "strategy", "plugins", "profiler"))
# The package's own options beside those of model, data, trainer and W&B: type, default and help.
OWN: dict[str, tuple[Any, Any, str]] = {
    "run_dir": (str, None, "the run's directory (default: runs/<data>-<arch>-<seed>-<identity>)"),
    "output": (str, None, "predict: the CSV file to write (default: in the run directory)"),
    "protocol": (
        str,
        None,
        "validate, test: center, flip, ten-crop, dense or multi-scale, several with commas (default: as in training)",
    ),
    "average": (
        Literal["probabilities", "logits"],
        None,
        "validate, test: what of a protocol's views is averaged (default: probabilities)",
    ),
    "checkpoint_minutes": (NonNegativeFloat, 10.0, "minutes between checkpoints within an epoch"),
    "fresh": (None, False, "fit: start another run beside one of the same configuration"),
}
TOP = {"config", "seed_everything", "ckpt_path", "weights_only", *OWN}
EVALUATIONS = {"verbose", "return_predictions"}  # Lightning's own of its other subcommands
# Names of options, and addresses, that hold a credential.
SECRET = re.compile(
    r".*(token|secret|passw(or)?d|passphrase|credentials?|(api|access|secret|private|auth)[_-]?key)|pwd|auth|authorization",
    re.IGNORECASE,
)
LOGIN = re.compile(r"://([^/\s@]+@|[^/\s@:]+:\S+@)|[?&](\w*token|\w*key|password|signature|sig)=", re.IGNORECASE)
# What the command line fills in from elsewhere.
LINKED = {
    "model.num_classes": "the data says how many classes there are",
    "data.seed": "--seed_everything sets it, and all else that is random",
}


def known_options() -> set[str]:
    """Return every option of ``fit``, dotted: model.arch, data.batch_size, trainer.max_epochs."""
    known = set(TOP) | {"data", "data.class_path"}
    known |= {f"model.{name}" for name in _parameters(PACKAGE / "train" / "classifier.py", "ImageClassifier")}
    for group in ("Optim", "Schedule"):
        known |= {f"model.{group.lower()}.{name}" for name in _fields(PACKAGE / "train" / "optim.py", group)}
    known |= {f"wandb.{name}" for name in _fields(PACKAGE / "track" / "wandb_settings.py", "Wandb")}
    for path, name in _data_modules():
        known |= {f"data.{parameter}" for parameter in _parameters(path, name)}
    known |= {f"trainer.{name}" for name in _parameters(_trainer(), "Trainer")}
    return known - LINKED.keys()


def check_options(argv: list[str]) -> None:
    """Raise UserError for a config, option, data set, network or W&B mode of a command line that there is not.

    Other values are not looked at. A data set that is not this package's is imported, for its options.
    """
    command, *words = arrange(argv)[-1]
    Wandb(mode="auto" if last_value(words, "wandb.mode") in (None, "auto") else "offline").asked_mode()
    known = known_options() | (EVALUATIONS if command != "fit" else set())
    data, arch = last_value(words, "data", "data.class_path"), last_value(words, "model.arch")
    if data and re.fullmatch(r"\w+", data) and data not in registry.DATA_SETS:
        near = near_misses(data, registry.DATA_SETS)
        raise UserError(f"unknown data set {data!r}{near}\nallowed: {', '.join(registry.DATA_SETS)}")
    if arch:
        get_architecture(arch)
    known |= _outside_options(words)
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "-c":
            content = load_config(Path(following))
            for key in _keys(content):
                _check(key, known, f" in {following}")
            refuse_secrets(content)
        elif word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            _check(option.rstrip("+"), known, "")
            given = value if equals else following
            refuse_secrets(given, option)
            with contextlib.suppress(yaml.YAMLError):
                refuse_secrets(yaml.safe_load(given), option)  # a mapping within a word


def refuse_secrets(value: Any, key: str = "") -> None:
    """Raise UserError where an option is a credential: it would be written to config.yaml, to W&B, and to job scripts.

    Args:
        value: an option's value, or a mapping or list of more of them.
        key: the option.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            refuse_secrets(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            refuse_secrets(inner, key)
    elif (value not in (None, "") and SECRET.fullmatch(key.rpartition(".")[2])) or LOGIN.search(str(value)):
        raise UserError(
            f"the option {key} is given a credential, which would be written to the run's files\nLeave it out: log in "
            "with its library's tool, or set the environment variable that it reads (WANDB_API_KEY, say)."
        )


def _outside_options(words: Sequence[str]) -> set[str]:
    """Return the options of the data set that is meant, where it is given by a class path outside of this package."""
    files = [load_config(Path(file)) for word, file in itertools.pairwise(words) if word == "-c"]
    given = [content["data"] for content in files if content.get("data")]
    paths = [data.get("class_path") if isinstance(data, dict) else data for data in given]
    path = next(filter(None, [last_value(words, "data", "data.class_path"), *reversed(paths)]), "")
    if "." not in path or path.startswith("reslightning."):
        return set()
    return {f"data.{name}" for name in parameters(registry.load(path))} - LINKED.keys()


def _check(key: str, known: set[str], where: str) -> None:
    key = key.replace("data.init_args.", "data.")
    if key in LINKED:
        raise UserError(f"{key} would not count: {LINKED[key]}")
    if key in known or key.startswith(tuple(f"{name}." for name in OPEN)):
        return
    if any(option.startswith(f"{key}.") for option in known):
        return  # a whole group
    raise UserError(f"unknown option {key!r}{where}{near_misses(key, known)}\n`fit --help` lists the options")


def _keys(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        key = f"{prefix}{name}".removesuffix(".init_args")
        if isinstance(value, dict) and key not in OPEN:
            yield from _keys(value, f"{key}.")
        else:
            yield key


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


def _classes(path: Path) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}


def _parameters(path: Path, name: str) -> set[str]:
    for node in _classes(path)[name].body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]} - {"self"}
    return set()


def _fields(path: Path, name: str) -> set[str]:
    body = _classes(path)[name].body
    return {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
