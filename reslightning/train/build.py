"""Networks with weights from anywhere, and a run's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from reslightning.models import resnet
from reslightning.ranges import check_values
from reslightning.run.record import weights_file

if TYPE_CHECKING:
    from reslightning.train.classifier import ImageClassifier


def build_model(
    arch: str,
    *,
    num_classes: int | None = None,
    shortcut: str | None = None,
    version: str | None = None,
    weights: str | None = None,
    zero_init_residual: bool = False,
) -> nn.Module:
    """Build a network as ``reslightning.models.resnet.build_model`` does, also with the weights of a run.

    Args:
        arch: a name of ``list_architectures()``, or resnetD or plainD with D = 6n + 2.
        num_classes: outputs of the final layer; None is the architecture's own, as in all that follow.
        shortcut: A, B or C (arXiv:1512.03385, Sec. 4.1).
        version: v1, v1.5 or v2.
        weights: ``torchvision:NAME``, ``hf:USER/NAME``, a run directory, a checkpoint or a state dict file, other
            people's too; ``FILE#KEY`` of a file of several weights. None initialises.
        zero_init_residual: start the last scale of every block at zero.

    Returns:
        A module that maps images [B, 3, H, W], normalised floats, to logits [B, num_classes].

    Raises:
        UserError: an unknown name or option, or weights that do not fit.
    """
    check_values(build_model, locals(), "")
    return resnet.build_model(
        arch,
        num_classes=num_classes,
        shortcut=shortcut,
        version=version,
        weights=None if weights is None else weights_file(str(weights)),
        zero_init_residual=zero_init_residual,
    )


def load(run: str | Path) -> ImageClassifier:
    """Return a run's network as an evaluation would use it; see ``ImageClassifier.from_run``, which it calls.

    Its ``class_names``, ``mean``, ``std`` and sizes say what it was trained for; it normalises uint8 images itself::

        model = load("runs/RUN")
        images = torch.from_numpy(array).permute(2, 0, 1)[None]  # of [height, width, 3], uint8, of model.image_size
        logits = model(images)
        print(model.class_names[logits.argmax()])

    Args:
        run: the run directory.

    Raises:
        UserError: it is none, has no checkpoint yet, or was made by a newer version.
    """
    from reslightning.train.classifier import ImageClassifier  # build_model needs no Lightning

    return ImageClassifier.from_run(run)
