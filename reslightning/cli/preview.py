"""A command line read as its job will read it, without starting what it means."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import yaml

from reslightning.cli.choice import RUN_DIR_VARIABLE
from reslightning.cli.explain import unwrapped
from reslightning.cli.lightning_cli import CLI, devices, fingerprint
from reslightning.cli.quiet import quiet
from reslightning.errors import UserError
from reslightning.run.directory import Run


class Preview(CLI):
    """Reads and checks a ``fit`` command line as its job will, and finds its run, without starting it.

    Args:
        argv: the command line, from ``fit`` on.
        nodes: the job's nodes.
        devices: its tasks on each node.

    Attributes:
        run: the run it means.
        text: its complete configuration, as YAML.
    """

    run: Run
    text: str

    def __init__(self, argv: Sequence[str], nodes: int, devices: int) -> None:
        self.nodes, self.devices = nodes, devices
        with quiet():
            super().__init__(argv)

    def before_instantiate_classes(self) -> None:
        """Check how many tasks it is for."""
        self._refuse()
        trainer = self._options.trainer
        if (trainer.num_nodes, devices(trainer)) != (self.nodes, self.devices):
            raise UserError(
                f"trainer.num_nodes={trainer.num_nodes} x trainer.devices={trainer.devices} do not match the job's "
                f"{self.nodes} nodes x {self.devices} tasks; leave them out, submit sets them"
            )
        self.text = self._text()

    def instantiate_classes(self) -> None:
        """Build the network and the data module, which check their options, and find the run: by its data, if there."""
        with unwrapped():
            built = self.parser.instantiate_classes(self.config)[str(self.subcommand)]
        self._check_callbacks(built.trainer, built.model)
        built.data.micro_batch_size(self.nodes * self.devices, self._options.trainer.accumulate_grad_batches)
        with contextlib.suppress(UserError):  # the nodes may have what is not here
            self.fingerprint = fingerprint(built.model, built.data)
        self.run = self._find_run(yaml.safe_load(self.text))
        os.environ.pop(RUN_DIR_VARIABLE, None)

    def _set_seed(self) -> None:
        """Do nothing: what submits, a notebook perhaps, keeps its own random numbers."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing."""
