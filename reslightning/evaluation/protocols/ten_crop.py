"""Ten views: four corners and the middle, and their mirror images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from reslightning.data.decode import Pixels
from reslightning.data.views import Sizes, middle, scaled
from reslightning.evaluation.protocol import OfPictures, mirrored
from reslightning.train.evaluator import Evaluator


class TenCrop(OfPictures):
    """Standard ten-crop testing (arXiv:1512.03385, Sec. 3.4, Tables 2 and 3; Krizhevsky et al. 2012, Sec. 4.1).

    The shorter side is scaled to ``data.eval_resize``, the paper's 256. Four corners and the middle of
    ``data.eval_size``, 224, are of the scaled picture, not of a square from its middle; and mirrored. Left open, and
    assumed here: the filter is ``data.eval_interpolation``; mirrored are the five patches ("as well as their horizontal
    reflections"), where torchvision cuts the middle out of the mirrored picture, a column further in every second
    width. The average is of probabilities, as of the authors' released networks; fb.resnet.torch averages logits.
    """

    name = "ten-crop"
    crops = 5

    def views(self, pixels: Pixels, sizes: Sizes) -> Sequence[Pixels]:
        """Return the corners and the middle, each [size, size, 3]."""
        picture = scaled(pixels, sizes.resize, sizes.interpolation)
        ends = slice(None, sizes.size), slice(-sizes.size, None)
        return [*(picture[rows, columns] for rows in ends for columns in ends), middle(picture, sizes.size)]

    def answers(self, network: Evaluator, views: Tensor) -> Tensor:
        """Return logits [N, 2, classes]."""
        return mirrored(network, views)
