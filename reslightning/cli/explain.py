"""The parser's complaints in one short message: what, given, allowed, and the near miss."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

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
    types = option_types(parser, [*data_sets.values(), *registry.outside()])
    unknown = re.search(r"unrecognized arguments: (\S+)", message)
    if unknown:
        return _unknown_option(unknown[1].partition("=")[0].lstrip("-"), types)
    data = re.search(r'Parser key "data":.*(?:import path string: |Given value: )(\w[\w.]*)\s*$', message, re.DOTALL)
    if data and "not accepted" not in message:
        return f"unknown data set {data[1]!r}{near_misses(data[1], data_sets)}\nallowed: {', '.join(data_sets)}"
    refused = re.search(r"(?:(?:Group '([^']+)' |Subcommand '\w+' )?does not accept option|Option) '([^']+)'", message)
    keys = [key.removeprefix("init_args.") for key in re.findall(r'Parser key "([^"]+)"', message)]
    if refused and refused[2] not in types:  # which a file in the place of a class may hold
        groups = {option.partition(".")[0] for option in types}
        parents = [] if refused[2].partition(".")[0] in groups else [refused[1]] if refused[1] else keys
        name = ".".join([*parents, refused[2]]).replace(".init_args", "")
        having = [one for one, cls in data_sets.items() if name.removeprefix("data.") in parameters(cls)]
        if name.startswith("data.") and having:
            return f"{name} is no option of this data set\nSay which is meant: --data {', '.join(having)}"
        return _unknown_option(name, types)
    value = re.findall(r"(?:Got|Given) value: ?(.*)", message)
    if missing := _missing(message):
        return missing
    if keys and value:
        key = next((k for k in (".".join(keys), keys[-1]) if k in types), ".".join(keys))
        if key == "data.seed":  # the command line links it
            key, types["seed_everything"] = "seed_everything", int
        whole = value[0 if "Got value" in message else -1].strip()
        given = re.sub(r"^NestedArg\(key='.*?', val='?(.*?)'?\)$", r"\1", whole)
        near = near_misses(given, literals(types.get(key)))
        return f"{key}={given} is not allowed{near}\nallowed: {allowed(types.get(key))}"
    if group := re.search(r"""Parser key "([\w.]+)":.*Unable to load config '([^{']*)'""", message, re.DOTALL):
        return f"{group[1]}={group[2]} is not allowed\nallowed: a mapping of its options, or a file of them"
    said = " ".join(line.strip(" -") for line in message.splitlines() if line.strip())
    return re.sub(r'Parser key "([\w.]+)":', r"\1:", said)


def unmade(message: str) -> str | None:
    """Return which class jsonargparse could not make, and why; None for a message about something else."""
    found = re.search(
        r"Problem with given class_path '([\w.]+)':\s*(.*?)(?=\n\s*- |\nGiven value|\Z)", message, re.DOTALL
    )
    return found and f"{found[1].rpartition('.')[2]} cannot be made: {' '.join(found[2].split())}"


def _missing(message: str) -> str | None:
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


def _unknown_option(name: str, types: Iterable[str]) -> str:
    near = near_misses(name, types)
    # The right name in the wrong group, or its beginning, is further away in letters than in meaning.
    last = name.rpartition(".")[2]
    same = [option for option in types if option.rpartition(".")[2].startswith(last)]
    if not near and same:
        near = f"; did you mean {' or '.join(map(repr, same[:3]))}?"
    return f"unknown option {name!r}{near}\n`fit --help` and `fit --data.help CIFAR10` list the options"


def option_types(parser: Any, data_sets: Iterable[type]) -> dict[str, Any]:
    """Return the type of every option, also of those that a data set has."""
    types = options(parser)
    for data_set in data_sets:
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
