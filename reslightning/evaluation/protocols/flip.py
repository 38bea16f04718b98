"""Two views: the middle of the picture and its mirror image."""

from __future__ import annotations

from torch import Tensor

from reslightning.data.base import DataModule
from reslightning.evaluation.protocol import Protocol, mirrored
from reslightning.train.evaluator import Evaluator


class Flip(Protocol):
    """What ``center`` sees and its mirror image.

    With logits averaged it is what ``model.test_flip`` does, and is called as that is: center-flip.
    """

    name = "flip"

    def answers(self, network: Evaluator, views: Tensor) -> Tensor:
        """Return logits [N, 2, classes]."""
        return mirrored(network, views)

    def label(self, data: DataModule) -> str:
        """Return its name, with logits the one of validation in training."""
        return f"{data.protocol}-flip" if self.average == "logits" else super().label(data)
