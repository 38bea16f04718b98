"""The whole picture and its mirror image, seen by the network as a fully convolutional one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from reslightning.data.base import DataModule
from reslightning.data.decode import Pixels
from reslightning.data.folder import ImageFolder
from reslightning.data.views import Sizes, scaled
from reslightning.errors import UserError
from reslightning.evaluation.protocol import OfPictures, mirrored
from reslightning.models.architectures import ARCHITECTURES, get_architecture
from reslightning.train.evaluator import Evaluator

LEAST = 193  # pixels: of fewer a network's last map has no 7 x 7 places


class Dense(OfPictures):
    """Fully convolutional testing at one scale, with the picture's own aspect (arXiv:1409.1556, Sec. 3.2).

    The shorter side is scaled to ``data.eval_resize``. The logits of a view are the mean over all windows of 7 x 7
    places of the last map, see ``ResNet.dense``. Left open, and assumed here: the mirror image is seen, too, and the
    two are averaged as the crops of ten-crop are.
    """

    name = "dense"
    sizes: ClassVar[tuple[str, ...]] = ("eval_resize",)
    crops = 2

    def views(self, pixels: Pixels, sizes: Sizes) -> Sequence[Pixels]:
        """Return the whole picture."""
        return [scaled(pixels, sizes.resize, sizes.interpolation)]

    def answers(self, network: Evaluator, views: Tensor) -> Tensor:
        """Return logits [N, 2, classes]."""
        return mirrored(network.dense, views)

    def check_network(self, arch: str) -> None:
        """Raise UserError where the network has no such form."""
        if get_architecture(arch).stem != "imagenet":
            allowed = ", ".join(name for name, row in ARCHITECTURES.items() if row.stem == "imagenet")
            raise UserError(
                f"--protocol {self.name} is of residual and plain networks of the ImageNet form, and {arch} is none; "
                f"allowed: {allowed}; or another protocol: center, flip, ten-crop"
            )

    def check(self, data: DataModule) -> None:
        """Raise UserError where the data's images have no such form."""
        super().check(data)
        if "eval_resize" in self.sizes and isinstance(data, ImageFolder) and data.eval_resize < LEAST:
            raise UserError(
                f"data.eval_resize={data.eval_resize} leaves --protocol {self.name} no 7 x 7 places of the last map; "
                f"allowed: {LEAST} pixels or more"
            )
