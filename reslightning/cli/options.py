"""Which options ``fit`` has, read from the sources, so that a typo is found without importing torch."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse.typing import NonNegativeFloat

from reslightning.cli.configs import arrange, class_path, last_value, load_config
from reslightning.cli.declared import declared
from reslightning.cli.given import Given, given_options
from reslightning.data import registry
from reslightning.errors import UserError, near_misses
from reslightning.models.architectures import check_trainable, get_architecture
from reslightning.ranges import check_value, parameters
from reslightning.strict_yaml import Loader
from reslightning.track.wandb_settings import Wandb

# Classes whose own options, and lists of classes, may stand below these.
OPEN = tuple(f"trainer.{name}" for name in ("callbacks", "logger", "strategy", "plugins", "profiler"))
# The package's own options beside those of model, data, trainer and W&B: type, default and help.
OWN: dict[str, tuple[Any, Any, str]] = {
    "run_dir": (str | None, None, "the run's directory (default: runs/<data>-<arch>-<seed>-<identity>)"),
    "output": (str | None, None, "predict: the CSV file to write (default: in the run directory)"),
    "embeddings": (
        str | None,
        None,
        "predict: an .npz file for the vectors of the last pooling, with every image's name and label",
    ),
    "protocol": (
        str | None,
        None,
        "validate, test: center, flip, ten-crop, dense or multi-scale, several with commas (default: as in training)",
    ),
    "average": (
        Literal["probabilities", "logits"] | None,
        None,
        "validate, test: what of a protocol's views is averaged (default: probabilities)",
    ),
    "save": (
        str | bool | None,
        None,
        "validate, test: write every image's probabilities to a FILE.npz, for ensembles (without FILE: into the run's "
        "directory)",
    ),
    "recalibrate": (
        int | None,
        None,
        "validate, test: normalise by exact averages over so many training images, not by the training's moving ones",
    ),
    "checkpoint_minutes": (NonNegativeFloat, 10.0, "minutes between checkpoints within an epoch"),
    "fresh": (None, False, "fit: start another run beside one of the same configuration"),
}
EVALUATING = ("output", "embeddings", "protocol", "average", "save", "recalibrate")  # of them, those that are no run's
TOP = {"config", "seed_everything", "ckpt_path", "weights_only", *OWN}
EVALUATIONS = {"verbose", "return_predictions"}  # Lightning's own of its other subcommands
# Names of options, and addresses, that hold a credential.
SECRET = re.compile(
    r".*(token|secret|passw(or)?d|passphrase|credentials?|(api|access|secret|private|auth)[_-]?key)|pwd|auth|authorization",
    re.IGNORECASE,
)
LOGIN = re.compile(r"://([^/\s@]+@|[^/\s@:]+:\S+@)|[?&](\w*token|\w*key|password|signature|sig)=", re.IGNORECASE)
SPELLED = {"None": "null", "True": "true", "False": "false"}  # Python's words as a config has them
# What the command line fills in from elsewhere.
LINKED = {
    "model.num_classes": "the data says how many classes there are",
    "data.seed": "--seed_everything sets it, and all else that is random",
}


def known_options() -> dict[str, Any]:
    """Return every option of ``fit``, dotted, with its type: model.arch, data.batch_size, trainer.max_epochs."""
    return {name: kind for name, kind in (dict.fromkeys(TOP, Any) | declared()).items() if name not in LINKED}


def check_options(argv: list[str]) -> None:
    """Raise UserError for a config, option, data set, network, W&B mode, number or choice that cannot be.

    Other values are the parser's to look at. A data set that is not this package's is imported, for its options.
    """
    command, *words = arrange(argv)[-1]
    Wandb(mode="auto" if last_value(words, "wandb.mode") in (None, "auto") else "offline").asked_mode()
    known = known_options()
    if command != "fit":
        known |= dict.fromkeys([*EVALUATIONS, *(name for name in known if name.startswith("trainer."))], Any)
    files = [load_config(Path(file)) for word, file in itertools.pairwise(words) if word == "-c"]
    known |= _data_options(_data_set(words, files))
    arch = _arch(words, files)
    if arch and command == "fit":
        check_trainable(arch)
    elif arch:
        get_architecture(arch)
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "-c":
            content = load_config(Path(following))
            for key in _keys(content):
                _check(key, known, f" in {following}")
            refuse_secrets(content)
        elif word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            _check(option.rstrip("+"), known, "")
            value = value if equals or following.startswith("--") else following
            refuse_secrets(value, option)
            with contextlib.suppress(yaml.YAMLError):  # the parser says where
                refuse_secrets(yaml.load(value, Loader), option)  # a mapping within a word
    for given in {given.key: given for given in given_options(words)}.values():  # the last ones count
        _check_value(given, known.get(given.key, Any))


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


def _arch(words: Sequence[str], files: Sequence[dict[str, Any]]) -> str | None:
    """Return the network that is meant, where flags or configs say it."""
    models = [content["model"] for content in reversed(files) if isinstance(content.get("model"), dict)]
    given = [last_value(words, "model.arch"), *(model.get("arch") for model in models)]
    return next((arch for arch in given if arch and isinstance(arch, str)), None)


def _data_set(words: Sequence[str], files: Sequence[dict[str, Any]]) -> str:
    """Return the class path, or name, of the data set that is meant, where a flag or config says it."""
    flag = next((word for word in words if word.startswith("--data=")), "").partition("=")[2]  # arranged to be first
    given = [content["data"] for content in reversed(files) if content.get("data")]
    paths = [data.get("class_path", "") if isinstance(data, dict) else class_path(str(data)) for data in given]
    return next(filter(None, [class_path(flag), *map(str, paths)]), "")


def _data_options(data: str) -> dict[str, Any]:
    """Return the options of a data set outside of this package, which is given by its class path."""
    if re.fullmatch(r"\w+", data) and data not in registry.DATA_SETS:
        near = near_misses(data, registry.DATA_SETS)
        raise UserError(f"unknown data set {data!r}{near}\nallowed: {', '.join(registry.DATA_SETS)}")
    if "." not in data or data.startswith("reslightning.data."):
        return {}
    return {f"data.{name}": Any for name in parameters(registry.load(data)) if name != "seed"}


def _check(key: str, known: Iterable[str], where: str) -> None:
    key = key.replace("data.init_args.", "data.")
    if key in LINKED:
        raise UserError(f"{key} would not count: {LINKED[key]}")
    if key in known or key.startswith(tuple(f"{name}." for name in OPEN)):
        return
    if any(option.startswith(f"{key}.") for option in known):
        return  # a whole group
    raise unknown_option(key, known, where)


def _check_value(option: Given, kind: Any) -> None:
    """Raise UserError for a number, choice or switch that an option cannot be; what may be text is the parser's."""
    key, value, config = option
    if "str" in str(kind):
        return
    if config is None and isinstance(value, str):
        try:
            value = yaml.load(value, Loader)
        except yaml.YAMLError:
            return  # the parser says where
    with contextlib.suppress(ValueError):
        value = float(value) if isinstance(value, str) else value  # 1e-3 is text to YAML
    check_value(key, kind, value, SPELLED.get(str(option.value), str(option.value)))


def _keys(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        key = f"{prefix}{name}".removesuffix(".init_args")
        if isinstance(value, dict) and key not in OPEN:
            yield from _keys(value, f"{key}.")
        else:
            yield key


def unknown_option(name: str, known: Iterable[str], where: str = "") -> UserError:
    """Return what is said of an option that is none of the known ones, with those that may be meant."""
    known = list(known)
    near = near_misses(name, [*known, *{option.rpartition(".")[0] for option in known}])
    # The right name in the wrong group, or its beginning, is further away in letters than in meaning.
    last = name.rpartition(".")[2]
    same = [option for option in known if option.rpartition(".")[2].startswith(last)]
    if not near and same:
        near = f"; did you mean {' or '.join(map(repr, same[:3]))}?"
    listed = "`fit --help` and `fit --data.help CIFAR10` list the options"
    return UserError(f"unknown option {name!r}{where}{near}\n{listed}")
