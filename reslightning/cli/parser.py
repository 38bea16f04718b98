"""Parsers that say in one line what is wrong; the only module that touches jsonargparse's private attributes."""

from __future__ import annotations

from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from reslightning.errors import UserError


class Parser(LightningArgumentParser):
    """Says what is wrong in one line with a near miss, instead of printing every option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a UserError for whatever the parser does not accept."""
        raise UserError(str(message)) from ex

    def option_types(self) -> dict[str, Any]:
        """Return the type of every option, dotted (model.optim.lr); None where it has none."""
        return {
            option.removeprefix("--"): getattr(action, "_typehint", None)
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--") and not option.endswith("help")
        }
