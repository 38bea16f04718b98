"""fit, validate, test and predict."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException

from reslightning.cli.lightning_cli import CLI
from reslightning.cluster.staging import release
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
