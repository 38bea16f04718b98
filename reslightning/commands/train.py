"""fit, validate, test and predict."""

from __future__ import annotations

import os
from collections.abc import Callable

from reslightning.cli.choice import RUN_DIR_VARIABLE
from reslightning.cli.given import configs_named
from reslightning.cli.loading import loading
from reslightning.cli.options import check_options
from reslightning.cli.showing import shows
from reslightning.errors import UserError

# What Lightning's launcher sets in the first process for the others.
LAUNCHED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def main(argv: list[str]) -> int:
    """Run one of Lightning's subcommands."""
    with configs_named(argv):
        if not shows(argv):
            check_options(argv)  # what torch is not needed for is said before it is loaded
        with loading(aloud=not shows(argv)):
            from reslightning.cli.lightning_cli import CLI

        carry_out(lambda: CLI(argv))
    return 0


def carry_out(command: Callable[[], object]) -> None:
    """Do what builds a CLI, say what Lightning refuses, and leave nothing behind that is this command's own."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from reslightning.cli.quiet import quiet
    from reslightning.cluster.staging import release
    from reslightning.data.sources import withdrawn
    from reslightning.data.workers import end_workers

    before = set(os.environ)
    try:
        with quiet(), withdrawn():
            command()
    except MisconfigurationException as error:
        raise UserError(f"Lightning refuses this combination of options: {error}") from error
    finally:
        for name in {RUN_DIR_VARIABLE, *LAUNCHED} - before:  # what this process starts later is not its training's
            os.environ.pop(name, None)
        end_workers()
        release()
