"""Parsers: what small commands parse with, and the only module that touches jsonargparse's private attributes."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn, get_args

import jsonargparse
import yaml
from jsonargparse.typing import PositiveFloat, PositiveInt

from reslightning.cli.configs import last_value, underscored
from reslightning.errors import UserError, near_misses
from reslightning.strict_yaml import Loader

WORDS = {
    int: "a whole number",
    float: "a number",
    PositiveInt: "a whole number, 1 or more",
    PositiveFloat: "a number above 0",
}


STRICT = "reslightning"  # the parsers' mode: a host's own read YAML as they did
_load = jsonargparse.get_loader("yaml")


def _load_strictly(text: str) -> Any:
    """Return a value given on the command line or in a config, once it is known to mean one thing."""
    _read_strictly(text)
    return _load(text)


@lru_cache
def _read_strictly(text: str) -> None:
    yaml.load(text, Loader)


class Dumper(yaml.SafeDumper):
    """What configurations are written with."""


def _dump(content: Any) -> str:
    return yaml.dump(content, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


jsonargparse.set_loader(STRICT, _load_strictly, exceptions=(yaml.YAMLError,))
jsonargparse.set_dumper(STRICT, _dump)


class CommandParser(jsonargparse.ArgumentParser):
    """Says what is wrong in one message with a near miss; takes no abbreviations, and dashes for underscores."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.HelpFormatter,
            parser_mode=STRICT,
        )
        self._words: list[str] = []

    def parse_args(self, args: Sequence[str], **options: Any) -> jsonargparse.Namespace:  # type: ignore[override]
        """Return the options that a command line gives."""
        self._words = underscored(args)
        for before, word in itertools.pairwise(["", *self._words]):
            if word == "" or re.fullmatch(r"--\w+=", word):
                name = word.rstrip("=") or (before if before.startswith("--") else "what is given")
                raise UserError(f"{name} is empty, '', a variable that is not set perhaps\nGive it, or leave it out.")
        return super().parse_args(self._words, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a UserError."""
        if value := re.search(r'Parser key "(\w+)"|argument --(\w+): invalid \w+ value', message):
            name = value[1] or value[2]
            kind = options(self)[name]
            choices = [str(one) for part in (kind, *get_args(kind)) for one in get_args(part) if isinstance(one, str)]
            allowed = WORDS.get(kind) or ", ".join(dict.fromkeys(choices)) or kind.__doc__
            said = re.search(r"Got value: (.*)|invalid \w+ value: '(.*)'|: (\S+) does not conform", message)
            given = f"--{name}={next(filter(None, said.groups()), '') if said else last_value(self._words, name)}"
            raise UserError(f"{given} is not allowed; allowed: {allowed}") from ex
        if missing := re.search(r"arguments are required: (.*)", message):
            typed = {one.dest: next(iter(one.option_strings), str(one.metavar or one.dest)) for one in self._actions}
            names = ", ".join(typed.get(name, name) for name in missing[1].split(", "))
            raise UserError(f"not given, and required: {names}\n{self.prog} --help says what is meant") from ex
        unknown = re.search(r"unrecognized arguments: (\S+)|invalid choice: '(.*?)'", message)
        known = [f"--{option}" for option in options(self)]
        choices = [str(choice) for action in self._actions for choice in action.choices or ()]
        near = near_misses(unknown[1] or unknown[2], [*known, *choices]) if unknown else ""
        raise UserError(f"{message}{near}\n{self.prog} --help lists the options") from ex


def add_network(parser: CommandParser) -> None:
    """Add the options that say which network weights are of."""
    parser.add_argument("--model.arch", metavar="NAME", help="the network, of weights that do not say it")
    for name, choices in (("shortcut", "A|B|C"), ("version", "v1|v1.5|v2"), ("norm", "batch|none")):
        parser.add_argument(f"--model.{name}", metavar=choices, help="the same")


def options(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the type of every option of a parser, dotted (model.optim.lr); None where it has none."""
    return {
        option.removeprefix("--"): getattr(action, "_typehint", None) or action.type
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and not option.endswith("help")
    }


_Batches = int | float | None


def count_batches(parser: argparse.ArgumentParser) -> None:
    """Let 1 stay one batch, where 1.0 is all of them.

    Python may have their type as float or int, and jsonargparse tries the first one first.
    """
    for action in parser._actions:
        if re.search(r"\.(limit_\w+_batches|overfit_batches|val_check_interval)$", action.dest):
            action._typehint = _Batches  # type: ignore[attr-defined]
