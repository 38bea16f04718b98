"""What a network has in front of its final layer: maps, the vectors that they are pooled to, and maps of classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

HEADS = ("fc", "classifier")  # how the layers behind the last pooling are called


def without_head(network: nn.Module) -> nn.Module:
    """Let a network map images to the vectors [B, D] of its last pooling, in place; return it."""
    setattr(network, _head(network), nn.Identity())
    return network


class Features:
    """What the last pooling of a network, one of ``build_model``'s, was given and gave in the last forward pass.

    Attributes:
        maps: the last map [B, C, h, w].
        vectors: what it was pooled to, [B, D]; D is C where pooling leaves one place.
    """

    maps: Tensor
    vectors: Tensor

    def __init__(self, network: nn.Module) -> None:
        """Look at every forward pass of ``network`` from now on."""
        self._network = network
        network.avgpool.register_forward_hook(self._keep)  # type: ignore[union-attr]

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...], pooled: Tensor) -> None:
        self.maps, self.vectors = given[0].detach(), pooled.detach().flatten(1)

    @property
    def maps_classes(self) -> bool:
        """Whether pooling is an average over all places, with one layer behind it: not in VGG."""
        return isinstance(getattr(self._network, _head(self._network)), nn.Linear)

    def class_maps(self, classes: Tensor) -> Tensor:
        """Return what each place of the last map adds to a class's logit: its class activation map, [B, h, w].

        The average of a map and the class's bias is the logit, exactly (arXiv:1512.04150, Sec. 2).

        Args:
            classes: one for each image, [B].
        """
        head: Any = getattr(self._network, _head(self._network))
        return torch.einsum("bc,bchw->bhw", head.weight.detach()[classes].float(), self.maps.float())


def _head(network: nn.Module) -> str:
    return next(name for name in HEADS if hasattr(network, name))
