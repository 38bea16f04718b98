"""fit, validate, test and predict."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException

from reslightning.cli import CLI
from reslightning.data.staging import release
from reslightning.errors import UserError


def main(argv: list[str]) -> int:
    """Run one of Lightning's subcommands."""
    try:
        CLI(argv)
    except MisconfigurationException as error:
        raise UserError(f"Lightning refuses this combination of options: {error}") from error
    finally:
        release()
    return 0
