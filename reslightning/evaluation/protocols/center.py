"""One view: the middle of the picture."""

from __future__ import annotations

from torch import Tensor

from reslightning.data.base import DataModule
from reslightning.evaluation.protocol import Protocol
from reslightning.train.evaluator import Evaluator


class Center(Protocol):
    """The middle ``data.eval_size`` of a picture whose shorter side is scaled to ``data.eval_resize``.

    Of a data set of small images it is the whole image. 256 and 224 are AlexNet's and torchvision's V1; torchvision's
    V2 has 232 and 224, timm's A1 to A3 (arXiv:2110.00476) 235 and 224 with ``data.eval_interpolation`` bicubic.
    """

    name = "center"
    averages = False

    def answers(self, network: Evaluator, views: Tensor) -> Tensor:
        """Return logits [N, 1, classes]."""
        return network(views)[:, None]

    def label(self, data: DataModule) -> str:
        """Return what validation in training is called, too."""
        return data.protocol
