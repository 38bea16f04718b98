"""The whole picture at five scales, seen by the network as a fully convolutional one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from reslightning.data.base import DataModule
from reslightning.data.decode import Pixels
from reslightning.data.views import Sizes, scaled
from reslightning.evaluation.protocols.dense import Dense

SCALES = (224, 256, 384, 480, 640)  # pixels of the shorter side


class MultiScale(Dense):
    """Fully convolutional testing at five scales (arXiv:1512.03385, Sec. 3.4, Table 4).

    The paper averages "the scores at multiple scales (images are resized such that the shorter side is in {224, 256,
    384, 480, 640})". Left open, and assumed here: the filter is ``data.eval_interpolation``, the mirror image is seen
    at every scale, and the average is of probabilities.
    """

    name = "multi-scale"
    sizes: ClassVar[tuple[str, ...]] = ()
    crops = 25

    def views(self, pixels: Pixels, sizes: Sizes) -> Sequence[Pixels]:
        """Return the whole picture at every scale."""
        return [scaled(pixels, resize, sizes.interpolation) for resize in SCALES]

    def facts(self, data: DataModule) -> dict[str, Any]:
        """Return what makes the evaluation, for its record."""
        found = super().facts(data)
        return found | {"sizes": {"scales": list(SCALES), **found["sizes"]}}
