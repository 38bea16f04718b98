"""What job scripts run: ``python -m reslightning.slurm launch ARGUMENTS`` is a job's training.

``launch --manifest FILE`` trains what the array task's line says. ``ended STATUS`` runs behind a
job's tasks, and ``watch SHELL`` beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reslightning.cli.given import configs_named
from reslightning.cli.options import check_options
from reslightning.cluster.launch import launch
from reslightning.cluster.manifest import task_arguments
from reslightning.cluster.requeue import begun_in, ended, watch
from reslightning.errors import UserError
from reslightning.run.directory import leave


def main(argv: list[str]) -> int:
    """Run ``launch ARGUMENTS``, ``ended STATUS`` or ``watch SHELL``."""
    try:
        if argv[:1] == ["launch"]:
            arguments = task_arguments(Path(argv[2])) if argv[1:2] == ["--manifest"] and argv[2:] else argv[1:]
            with configs_named(words := ["fit", *arguments]):
                check_options(words)  # a typo is said once, and not by every task
            return _end(launch(arguments))
        if argv[:1] == ["ended"] and len(argv) == 2:
            return _end(int(argv[1]))
        if argv[:1] == ["watch"] and len(argv) == 2:
            return watch(int(argv[1]))
        raise UserError("usage: python -m reslightning.slurm launch FIT-ARGUMENTS | ended STATUS | watch SHELL")
    except UserError as error:
        print(f"reslightning: {error}", file=sys.stderr)
        return 2


def _end(status: int) -> int:
    """Say of a run whose process was killed, and could not, that it waits; then ask for another start."""
    if status > 128 and (directory := begun_in()):
        leave(directory)  # before Slurm, asked to start the job again, ends this process
    return ended(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
