"""Networks that torchvision builds, to be evaluated beside the paper's: its Tables 3 to 5 name them.

VGG is of arXiv:1409.1556, GoogLeNet of arXiv:1409.4842. Answers without importing torch, as the other table does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Borrowed:
    """One network of torchvision's: what was counted of it. It has no blocks of ours, so none of their options.

    Attributes:
        layers: weighted layers on the longest path, as its paper counts depth.
        features: inputs of the final layer.
        parameters: those of all layers but the final one.
        multiply_adds: the same, for one image.
        least: height and width in pixels of the smallest image that it takes.
        options: what torchvision's function is told.
        training_only: how names begin of weights that only its training needs, and that are left out.
    """

    layers: int
    features: int
    parameters: int
    multiply_adds: int
    least: int = 32
    options: Mapping[str, bool] = field(default_factory=dict)
    training_only: tuple[str, ...] = ()
    num_classes: ClassVar[int] = 1000
    image_size: ClassVar[int] = 224
    stem: ClassVar[None] = None
    shortcut: ClassVar[None] = None
    version: ClassVar[None] = None


# It was trained on images normalised otherwise than the others': told so, it scales the usual ones itself.
_GOOGLENET = {"aux_logits": False, "transform_input": True, "init_weights": True}
BORROWED = {
    "vgg16": Borrowed(16, 4096, 134_260_544, 15_466_168_320),
    "vgg19": Borrowed(19, 4096, 139_570_240, 19_627_966_464),
    "vgg16_bn": Borrowed(16, 4096, 134_268_992, 15_466_168_320),
    "vgg19_bn": Borrowed(19, 4096, 139_581_248, 19_627_966_464),
    "googlenet": Borrowed(22, 1024, 5_599_904, 1_497_352_192, 15, _GOOGLENET, ("aux1.", "aux2.")),
}


def borrow(name: str, num_classes: int) -> nn.Module:
    """Build a network of torchvision's, a module of its own with its initialisation.

    GoogLeNet is without the two auxiliary classifiers, which only its training needs: of a file that has their weights
    these are left out. It takes images normalised as the others do, by ImageNet's mean and standard deviation.

    Args:
        name: one of ``BORROWED``.
        num_classes: outputs of the final layer.
    """
    from torchvision.models import get_model

    return get_model(name, weights=None, num_classes=num_classes, **BORROWED[name].options)
