"""The parser's complaints in one short message: what, given, allowed, and the near miss."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from reslightning.cli.options import SPELLED, unknown_option
from reslightning.cli.parser import options
from reslightning.data import registry
from reslightning.errors import UserError, near_misses
from reslightning.ranges import allowed, literals, parameters


def explain(message: str, parser: Any, data_sets: Mapping[str, type]) -> str:
    """Return what a parser's message means.

    Args:
        message: jsonargparse's own, often many lines.
        parser: the subcommand's parser, for its options and their types.
        data_sets: the package's data modules by class name.
    """
    types = option_types(parser, data_sets.values())
    for reading in (_of_words, _of_data_set, _of_name, _of_package, _of_value, _of_group):
        if meant := reading(message, types, data_sets):
            return meant
    said = " ".join(line.strip(" -") for line in message.splitlines() if line.strip())
    return re.sub(r'Parser key "([\w.]+)":', r"\1:", said)


Types: TypeAlias = Mapping[str, Any]
DataSets: TypeAlias = Mapping[str, type]


def _of_words(message: str, types: Types, data_sets: DataSets) -> str | None:
    if unknown := re.search(r"unrecognized arguments: (\S+)", message):
        return str(unknown_option(unknown[1].partition("=")[0].lstrip("-"), types))
    if flag := re.search(r"argument --(\w+): ignored explicit argument '(.*)'", message):
        return f"--{flag[1]}={flag[2]} is not allowed\nallowed: --{flag[1]}, without a value"
    return None


def _of_data_set(message: str, types: Types, data_sets: DataSets) -> str | None:
    if re.search(r"arguments are required: \w+\.data$", message):
        return f"no data set is left: it is given as null\nallowed: {', '.join(data_sets)}"
    data = re.search(r'Parser key "data":.*(?:import path string: |Given value: )(\w[\w.]*)\s*$', message, re.DOTALL)
    if data and data[1] != "null" and "not accepted" not in message:
        return f"unknown data set {data[1]!r}{near_misses(data[1], data_sets)}\nallowed: {', '.join(data_sets)}"
    return None


def _of_name(message: str, types: Types, data_sets: DataSets) -> str | None:
    refused = re.search(r"(?:(?:Group '([^']+)' |Subcommand '\w+' )?does not accept option|Option) '([^']+)'", message)
    if not refused or refused[2] in types:  # which a file in the place of a class may hold
        return None
    group = refused[2].partition(".")[0] in {option.partition(".")[0] for option in types}
    parents = [] if group else [refused[1]] if refused[1] else _keys(message)
    name = ".".join([*parents, refused[2]]).replace(".init_args", "")
    having = [one for one, cls in data_sets.items() if name.removeprefix("data.") in parameters(cls)]
    if name.startswith("data.") and having:
        return f"{name} is no option of this data set\nSay which is meant: --data {', '.join(having)}"
    return str(unknown_option(name, types))


def _of_value(message: str, types: Types, data_sets: DataSets) -> str | None:
    if bound := re.search(r'Parser key "([\w.]+)":.*: (\S+) does not conform to restriction v(.*)', message, re.DOTALL):
        return f"{bound[1]}={bound[2]} is out of range; allowed: a number {bound[3].strip()}"
    keys, value = _keys(message), re.findall(r"(?:Got|Given) value: ?(.*)", message)
    if not (keys and value):
        return None
    key = next((k for k in (".".join(keys), keys[-1]) if k in types), ".".join(keys))
    kind = types.get(key)
    if key == "data.seed":  # the command line links it
        key, kind = "seed_everything", int
    whole = value[0 if "Got value" in message else -1].strip()
    inner = r"(?:NestedArg\(key='.*?', val=|Namespace\(\w+=|\{'\w+': )(.*?)[)}]"  # around data.NAME of a config
    whole = whole.removeprefix("- Unexpected import path format: ")
    found = re.fullmatch(inner, whole)
    given = SPELLED.get(text := (found[1] if found else whole).strip("'"), text)
    if key == "data":
        return f"data={whole} is not allowed\nallowed: {', '.join(data_sets)}, or a class path with its init_args"
    return f"{key}={given} is not allowed{near_misses(given, literals(kind))}\nallowed: {allowed(kind)}"


def _of_group(message: str, types: Types, data_sets: DataSets) -> str | None:
    if binary := re.search(r'Parser key "([\w.]+)":.*codec can\'t decode', message, re.DOTALL):
        kind = allowed(types.get(binary[1]))
        return f"{binary[1]} is given a file that is no text\nallowed: {kind}, or a YAML file of it"
    group = re.search(r"""Parser key "([\w.]+)":.*Unable to load config '([^{']*)'""", message, re.DOTALL)
    return group and f"{group[1]}={group[2]} is not allowed\nallowed: a mapping of its options, or a file of them"


def _keys(message: str) -> list[str]:
    return [key.removeprefix("init_args.") for key in re.findall(r'Parser key "([^"]+)"', message)]


def unmade(message: str) -> str | None:
    """Return which class jsonargparse could not make, and why; None for a message about something else."""
    found = re.search(
        r"Problem with given class_path '([\w.]+)':\s*(.*?)(?=\n\s*- |\nGiven value|\Z)", message, re.DOTALL
    )
    return found and f"{found[1].rpartition('.')[2]} cannot be made: {' '.join(found[2].split())}"


def _of_package(message: str, types: Types, data_sets: DataSets) -> str | None:
    """Return which package a class of Lightning's needs that is not installed, of a message about the class."""
    from lightning_utilities.core.imports import RequirementCache

    for name in re.findall(r"class_path='([\w.]+)'", message):
        module, _, kind = name.rpartition(".")
        bases = getattr(getattr(sys.modules.get(module), kind, None), "__mro__", ())
        modules = [vars(sys.modules[base.__module__]) for base in bases if base.__module__.startswith("lightning.")]
        needed = [value for names in modules for value in names.values() if isinstance(value, RequirementCache)]
        if needed and not any(needed):
            packages = " or ".join(dict.fromkeys(str(value.requirement) for value in needed))
            return (
                f"{kind} needs a package that is not installed: {packages}\nInstall it with pip, or leave {kind} out."
            )
    return None


def option_types(parser: Any, data_sets: Iterable[type]) -> dict[str, Any]:
    """Return the type of every option, also of those that a data set has."""
    types = options(parser) | {"seed_everything": int}  # and no bool, which would seed by chance
    for data_set in [*data_sets, *registry.outside()]:
        types |= {f"data.{name}": hint for name, hint in parameters(data_set).items() if name != "seed"}
    return types


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the mistake that a constructor found, of which jsonargparse and Lightning make other errors.

    Raises:
        UserError: the constructor's own, or that a class cannot be made, since a package is missing for example.
    """
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:  # a profiler, strategy or accelerator by name
        raise UserError(f"the trainer's options need a package that is not installed: {error}") from error
    except ValueError as error:
        cause = error.__cause__
        while cause and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause:
            raise cause from None
        if not (made := unmade(str(error))):
            raise
        raise UserError(made) from error
