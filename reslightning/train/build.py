"""Networks with weights from anywhere, and a run's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from reslightning.models import resnet
from reslightning.models.checkpoint import SUFFIXES
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
    norm: str | None = None,
    weights: str | None = None,
    zero_init_residual: bool = False,
    features: bool = False,
) -> nn.Module:
    """Build a network as ``reslightning.models.resnet.build_model`` does, also with the weights of a run.

    Args:
        arch: a name of ``list_architectures()``, or resnetD or plainD with D = 6n + 2.
        num_classes: outputs of the final layer; None is the architecture's own, as in all that follow.
        shortcut: A, B or C (arXiv:1512.03385, Sec. 4.1).
        version: v1, v1.5 or v2.
        norm: batch or none.
        weights: ``torchvision:NAME``, ``hf:USER/NAME``, a run directory, a checkpoint or a state dict file, other
            people's too; ``FILE#KEY`` of a file of several weights. None initialises.
        zero_init_residual: start the last scale of every block at zero.
        features: leave out the final layer, once there are weights.

    Returns:
        A module that maps images [B, 3, H, W], normalised floats, to logits [B, num_classes], or to features [B, D],
        the vectors of the last pooling.

    Raises:
        UserError: an unknown name or option, or weights that do not fit.
    """
    check_values(build_model, locals(), "")
    return resnet.build_model(
        arch,
        num_classes=num_classes,
        shortcut=shortcut,
        version=version,
        norm=norm,
        weights=None if weights is None else weights_file(str(weights)),
        zero_init_residual=zero_init_residual,
        features=features,
    )


def load(run: str | Path, *, arch: str | None = None) -> ImageClassifier:
    """Return the network of a run, or of weights, as an evaluation would use it; see ``ImageClassifier.from_run``.

    Its ``class_names``, ``mean``, ``std`` and sizes say what it was trained for; it normalises uint8 images itself::

        model = load("runs/RUN")
        images = torch.from_numpy(array).permute(2, 0, 1)[None]  # of [height, width, 3], uint8, of model.image_size
        logits = model(images)
        print(model.class_names[logits.argmax()])

    Args:
        run: a run directory; or weights as ``build_model`` takes them, ``torchvision:resnet50.IMAGENET1K_V2`` say:
            of a file that does not say what its network was trained to see, what is usual is taken for it, and said.
        arch: the network of weights that do not say it, and fit several; None is the one that they are of.

    Raises:
        UserError: it is none, has no checkpoint yet, or was made by a newer version; or the weights cannot be read.
    """
    from reslightning.train.classifier import ImageClassifier  # build_model needs no Lightning
    from reslightning.train.pretrained import from_weights

    check_values(load, {"run": run, "arch": arch}, "")
    name = str(run)
    if name.startswith(("torchvision:", "hf:")) or Path(name.partition("#")[0]).suffix in SUFFIXES:
        return from_weights(name, arch=arch)
    return ImageClassifier.from_run(run)
