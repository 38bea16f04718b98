"""Networks with weights from anywhere, a run's own too."""

from __future__ import annotations

from typing import Any

from torch import nn

from reslightning.models import resnet
from reslightning.run.record import weights_file


def build_model(arch: str, *, weights: str | None = None, **options: Any) -> nn.Module:
    """Build a network as ``reslightning.models.resnet.build_model`` does, also with the weights of a run.

    Args:
        arch: a name of ``list_architectures()``, or resnetD or plainD with D = 6n + 2.
        weights: ``torchvision:NAME``, a run directory, a checkpoint or a state dict file; None initialises.
        options: num_classes, shortcut, version and zero_init_residual; None is the architecture's own default.

    Returns:
        A module that maps images [B, 3, H, W], normalised floats, to logits [B, num_classes].

    Raises:
        UserError: an unknown name or option, or weights that do not fit.
    """
    return resnet.build_model(arch, weights=weights and weights_file(weights), **options)
