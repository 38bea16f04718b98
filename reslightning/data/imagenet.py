"""ImageNet: a folder, or tars, whose labels are known whatever classes are there."""

from __future__ import annotations

import torch
from torch import Tensor

from reslightning.data.folder import ImageFolder
from reslightning.data.labels import imagenet_classes
from reslightning.data.registry import Split
from reslightning.errors import UserError


class ImageNet(ImageFolder):
    """ImageNet's 1,000 classes (ILSVRC 2012): the official tars, a tree, or what `reslightning pack` made.

    Labels are ImageNet's own whatever classes are there, so that networks trained elsewhere can be
    evaluated on a part of it. Options as ImageFolder.
    """

    licence = "non-commercial research and education (https://image-net.org/download)"
    own_upright = False

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """1,000."""
        return len(imagenet_classes())

    @property
    def class_ids(self) -> list[str]:
        """The 1,000 WordNet ids in the order of their labels."""
        return list(imagenet_classes())

    def setup(self, stage: str | None = None) -> None:
        """Open the source once, and refuse classes that are not ImageNet's."""
        if not self._parts and (unknown := [name for name in self.images.classes if name not in imagenet_classes()]):
            raise UserError(
                f"{self.root} has classes that are not ImageNet's: {', '.join(unknown[:5])}\n"
                "For classes of your own use --data ImageFolder."
            )
        super().setup(stage)

    def labels(self, split: Split) -> Tensor:
        """Return a split's labels [N], int64, among the 1,000."""
        number = {wnid: label for label, wnid in enumerate(imagenet_classes())}
        return torch.tensor([number[name] for name in self.images.classes])[super().labels(split)]
