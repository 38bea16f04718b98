"""Parsers that say in one line what is wrong."""

from __future__ import annotations

from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from reslightning.errors import UserError


class Parser(LightningArgumentParser):
    """Says what is wrong in one line with a near miss, instead of printing every option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a UserError for whatever the parser does not accept."""
        raise UserError(str(message)) from ex
