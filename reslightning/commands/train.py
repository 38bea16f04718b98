"""fit, validate, test and predict."""

from __future__ import annotations

import os

from lightning.fabric.utilities.exceptions import MisconfigurationException

from reslightning.cli.choice import RUN_DIR_VARIABLE
from reslightning.cli.lightning_cli import CLI
from reslightning.cli.quiet import quiet
from reslightning.cluster.staging import release
from reslightning.data.base import end_workers
from reslightning.errors import UserError

# What Lightning's launcher sets in the first process for the others.
LAUNCHED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def main(argv: list[str]) -> int:
    """Run one of Lightning's subcommands."""
    before = set(os.environ)
    try:
        with quiet():
            CLI(argv)
    except MisconfigurationException as error:
        raise UserError(f"Lightning refuses this combination of options: {error}") from error
    finally:
        for name in {RUN_DIR_VARIABLE, *LAUNCHED} - before:  # what this process starts later is not its training's
            os.environ.pop(name, None)
        end_workers()
        release()
    return 0
