"""What `test` and `validate` prepare, for something else than their errors: a run's network, images and Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer

from reslightning.cli.configs import load_config
from reslightning.cli.lightning_cli import CLI
from reslightning.data.base import DataModule
from reslightning.data.registry import Split
from reslightning.evaluation.evaluate import make_ready
from reslightning.evaluation.protocols import as_trained
from reslightning.train.classifier import ImageClassifier


class Measuring(CLI):
    """Builds what a command line of `test` or `validate` means, and measures it: nothing is written into the run.

    Args:
        argv: the command line.
        measure: what is done with the Trainer, the network with its weights, the data, and the split's name, in the
            Trainer's own precision: where it evaluates ``model``, its logits are those of the command's own.
    """

    def __init__(
        self, argv: Sequence[str], measure: Callable[[Trainer, ImageClassifier, DataModule, Split], Any]
    ) -> None:
        self._measure = measure
        super().__init__(argv)

    def _evaluate(self, model: ImageClassifier, data: DataModule, split: Split) -> None:
        trained = load_config(self.run.config) if self.run else None
        make_ready(data, split, [], self.content, self._options.model.weights, trained)
        as_trained(model).begin(model, data)
        self.measured = self._measure(self.trainer, model, data, split)
