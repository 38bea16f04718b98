"""Where configs come from, and in which order they and the flags count; without torch."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from reslightning.data.registry import DATA_SETS, default_config
from reslightning.errors import UserError, near_misses
from reslightning.run import layout
from reslightning.strict_yaml import Loader

GROUPS = ("data", "model", "trainer", "wandb", "model.optim", "model.schedule")
OF_A_FILE = ("data", "model.optim", "model.schedule")  # or of a class path
NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|-\.?inf", re.IGNORECASE)
STUDIES = "studies"  # the folder of configs/ whose files are no options of ``fit``


def arrange(argv: list[str]) -> list[list[str]]:
    """Return the readings of a command line, each with configs before flags, so that flags win, and the data set first.

    Configs are looked up. A command without one is read with the configuration of the run
    directory it names, then with that of its data set: the first that means that run is meant.
    """
    command, configs, flags = argv[0], list[str](), list[str]()
    rest = iter(underscored(argv[1:]))
    for argument in rest:
        if argument in ("-c", "--config"):
            configs.append(next(rest, ""))
        elif argument.startswith("--config="):
            configs.append(argument.partition("=")[2])
        elif argument.startswith("-c"):
            configs.append(argument[2:].removeprefix("="))
        elif NEGATIVE.fullmatch(argument) and flags and "=" not in flags[-1]:
            flags[-1] += f"={argument}"  # which would be taken for a flag's name
        else:
            flags.append(argument)
    data, flags = _data_set(flags)
    flags = [*data, *flags]
    choices = [configs]
    if not configs and not {"-h", "--help"} & set(flags):
        run_dir = last_value(flags, "run_dir")
        name = default_config(data[-1].removeprefix("--data=") if data else "Digits")
        own = Path(run_dir).expanduser() / layout.CONFIG if run_dir else None
        choices = [[str(own)]] if own and own.is_file() else []
        if command == "fit" or not choices:
            choices.append([name] if name in available_configs() else [])
            if choices[-1] and {"WANDB_MODE", "WANDB_DISABLED"} & os.environ.keys():
                flags = ["--wandb.mode=auto", *flags]  # nobody chose the config's
    return [
        # The data set stands before the configs, too, which may hold options that it alone has.
        [
            command,
            *(data if configs else []),
            *(p for config in choice for p in ("-c", str(find_config(config)))),
            *flags,
        ]
        for choice in choices
    ]


def _data_set(flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flag that chooses the data set, the last, and the others: its options, which another may not have.

    A mapping or file of both stays among the others, too, where its options count as they stand.
    """
    chosen, others, words = list[str](), list[str](), iter(flags)
    for word in words:
        name, equals, given = word.partition("=")
        if name not in ("--data", "--data.class_path"):
            others.append(word)
            continue
        following = [] if equals else list(itertools.islice(words, 1))
        given = given if equals else "".join(following)
        data_set = class_path(given)
        chosen += [f"--data={data_set}"] if data_set else []
        others += [word, *following] if data_set != given or not given else []
    return chosen[-1:], others


def class_path(data: str) -> str:
    """Return the class path in what ``--data`` is given, which may be a mapping, or the file of one; else nothing."""
    content: Any = data
    with contextlib.suppress(yaml.YAMLError):  # the parser says where
        content = yaml.load(data, Loader) if data.startswith("{") else of_file(data)
    return str(content.get("class_path", "")) if isinstance(content, dict) else data


def of_file(value: str) -> str | dict[str, Any]:
    """Return the options in the file that a group's value names, else the value."""
    found = False
    with contextlib.suppress(OSError, ValueError):  # no name that a file can have
        found = value not in DATA_SETS and Path(value).is_file()
    return load_config(Path(value)) if found else value


def underscored(words: Sequence[str]) -> list[str]:
    """Return a command line whose options have underscores where they were written with dashes."""
    return [re.sub(r"^--[A-Za-z][^=]*", lambda option: "--" + option[0][2:].replace("-", "_"), word) for word in words]


def last_value(flags: Sequence[str], *names: str) -> str | None:
    """Return the last value that is given for the first of an option's names that is given at all."""
    for name in names:
        values = [
            flag.partition("=")[2] if flag.startswith(f"--{name}=") else following
            for flag, following in itertools.pairwise([*flags, ""])
            if flag.startswith(f"--{name}=") or (flag == f"--{name}" and following)
        ]
        if values and values[-1]:
            return values[-1]
    return None


def config_folders() -> list[Path]:
    """Return where configs are looked for, in order."""
    package = Path(__file__).resolve().parents[1]
    # In a wheel the configs lie inside the package, in a checkout beside it.
    return [Path("configs"), package / "configs", package.parent / "configs"]


def available_configs() -> list[str]:
    """Return the names that -c takes without a path."""
    return [name for name in _names("**/*.yaml") if not name.startswith(f"{STUDIES}/")]


def available_studies() -> list[str]:
    """Return the names that ``study`` takes without a path."""
    return [name.removeprefix(f"{STUDIES}/") for name in _names(f"{STUDIES}/*.yaml")]


def _names(pattern: str) -> list[str]:
    found = {
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in config_folders()
        for path in folder.glob(pattern)
    }
    return sorted(found)


def find_config(name: str) -> Path:
    """Return the file a -c means: a path, or a name in ./configs or in the installed package.

    Raises:
        UserError: there is none, or it is no YAML.
    """
    candidates = [Path(name).expanduser()]
    candidates += [folder / f"{name.removesuffix('.yaml')}.yaml" for folder in config_folders()]
    for path in candidates:
        if path.is_file():
            load_config(path)
            return path
    known, own = available_configs(), Path(name).expanduser() / layout.CONFIG
    near = f"; did you mean {str(own)!r}?" if own.is_file() else near_misses(name, known)
    raise UserError(f"no config {name!r}{near}\nallowed: a path, or {', '.join(known)}")


def load_config(path: Path) -> dict[str, Any]:
    """Return a config's content.

    Raises:
        UserError: the file cannot be read or is no YAML; the message has the line.
    """
    try:
        content = yaml.load(path.read_text(), Loader)
    except yaml.MarkedYAMLError as error:
        if error.problem_mark is None and error.problem:
            raise UserError(f"{path}: {error.problem} (not valid YAML)") from error
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}, line {line}: {error.problem or error} (not valid YAML)") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the config {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no options: expected YAML like `model: {{arch: resnet20}}`")
    options = list(_dotted(content))
    for name, value in options:
        if name in GROUPS and value != {} and not (isinstance(value, str) and name in OF_A_FILE):
            given = "null" if value is None else repr(value)
            raise UserError(f"{path}: {name} is {given}; expected a mapping of its options, or nothing of it")
    names = sorted(name for name, _ in options)
    if twice := next((name for name, following in itertools.pairwise(names) if name == following), None):
        raise UserError(f"{path}: {twice} is given twice, nested and with dots; leave one of them")
    if lost := next(_lost(content), None):
        raise UserError(
            f"{path}: {lost[0]} with dots would not count beside {lost[1]}\nWrite it below {lost[1]}, nested."
        )
    _refuse_names(path, content)
    _refuse_config(path, content.get("config"))
    return content


def _refuse_names(path: Path, content: Mapping[Any, Any]) -> None:
    """Raise UserError for a name that is no text, as YAML reads 3, null or on; what a class takes is its own affair."""
    for name, value in content.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: {name!r} is no option's name, as YAML reads it; quote it if it is meant as text")
        if isinstance(value, Mapping) and name != "init_args":
            _refuse_names(path, value)


def _refuse_config(path: Path, inner: Any) -> None:
    """Raise UserError for a config within a config: of a group that both have, the parser would keep one alone."""
    if inner is not None:
        words = " ".join(f"-c {one}" for one in [*(inner if isinstance(inner, list) else [inner]), path])
        raise UserError(f"{path}: config: {inner} would not count whole\nGive both on the command line: {words}")


def _lost(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield options with dots whose group the parser takes from another key, each with that key."""
    keys = list(map(str, content))
    for at, key in enumerate(keys):
        groups = keys if key.startswith("data.") and not prefix else keys[at:]
        yield from ((f"{prefix}{key}", f"{prefix}{group}") for group in groups if key.startswith(f"{group}."))
    for key, value in zip(keys, content.values(), strict=True):
        if isinstance(value, dict):
            yield from _lost(value, f"{prefix}{key}.")


def _dotted(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
