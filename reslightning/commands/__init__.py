"""One module a command, each with ``main(argv) -> exit status``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import jsonargparse
from jsonargparse.typing import PositiveFloat, PositiveInt, restricted_number_type

from reslightning.cli.configs import underscored, value_of
from reslightning.errors import UserError, near_misses

__all__ = ["CommandParser", "PositiveFloat", "PositiveInt", "restricted_number_type"]

WORDS = {
    int: "a whole number",
    float: "a number",
    PositiveInt: "a whole number, 1 or more",
    PositiveFloat: "a number above 0",
}


class CommandParser(jsonargparse.ArgumentParser):
    """Says what is wrong in one message with a near miss; takes no abbreviations, and dashes for underscores."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=argparse.HelpFormatter)
        self._words: list[str] = []

    def parse_args(self, args: Sequence[str], **options: Any) -> jsonargparse.Namespace:  # type: ignore[override]
        """Return the options that a command line gives."""
        self._words = underscored(args)
        return super().parse_args(self._words, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a UserError."""
        if value := re.search(r'Parser key "(\w+)"|argument --(\w+): invalid \w+ value', message):
            name = value[1] or value[2]
            kinds = {action.dest: getattr(action, "_typehint", None) or action.type for action in self._actions}
            allowed = WORDS.get(kinds[name]) or kinds[name].__doc__
            given = f"--{name}={value_of(self._words, name)}"
            raise UserError(f"{given} is not allowed; allowed: {allowed}") from ex
        unknown = re.search(r"unrecognized arguments: (\S+)|invalid choice: '(.*?)'", message)
        known = [option for action in self._actions for option in action.option_strings]
        choices = [str(choice) for action in self._actions for choice in action.choices or ()]
        near = near_misses(unknown[1] or unknown[2], [*known, *choices]) if unknown else ""
        raise UserError(f"{message}{near}\n{self.prog} --help lists the options") from ex
