"""One module a command, each with ``main(argv) -> exit status``."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from reslightning.errors import UserError, near_misses


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong in one message with a near miss, and takes no abbreviations."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise a UserError."""
        known = [option for action in self._actions for option in action.option_strings]
        choices = [str(choice) for action in self._actions for choice in action.choices or ()]
        unknown = re.search(r"unrecognized arguments: (\S+)|invalid choice: '(.*?)'", message)
        near = near_misses(unknown[1] or unknown[2], [*known, *choices]) if unknown else ""
        raise UserError(f"{message}{near}\n{self.prog} --help lists the options")
