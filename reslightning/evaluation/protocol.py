"""What a test protocol is: an image's views, and what the network says of them, averaged over the views."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from reslightning.data.base import DataModule
from reslightning.data.decode import Pixels
from reslightning.data.folder import ImageFolder
from reslightning.data.views import Sizes, Views
from reslightning.errors import UserError
from reslightning.train.classifier import ImageClassifier
from reslightning.train.evaluator import Evaluator, counted

Average = Literal["probabilities", "logits"]


class Protocol(ABC):
    """How images are evaluated, of which the data set gives the middle. A subclass has a name, and answers to images.

    Args:
        average: whether the views' probabilities (the softmax of each view's logits) are averaged, or their logits.
    """

    name: ClassVar[str]
    sizes: ClassVar[tuple[str, ...]] = ("eval_resize", "eval_size")  # of the data set's, those that it looks at
    averages: ClassVar[bool] = True  # whether there is more than one view

    def __init__(self, average: Average = "probabilities") -> None:
        self.average = average

    def check_network(self, arch: str) -> None:  # noqa: B027 - most are of any network
        """Raise UserError where the network has no such form."""

    @abstractmethod
    def answers(self, network: Evaluator, views: Tensor) -> Tensor:
        """Map views of one shape, [N, 3, h, w], normalised, to logits [N, V, classes]: of each view V of them."""

    def label(self, data: DataModule) -> str:
        """Return its name with what is unusual about this use of it."""
        return self.name + data.unusual(*self.sizes) + ("-logits" if self.averages and self.average == "logits" else "")

    def facts(self, data: DataModule) -> dict[str, Any]:
        """Return what makes the evaluation, for its record."""
        sizes = {name: value for name, value in data.sizes.items() if name in (*self.sizes, "interpolation")}
        return {"protocol": self.label(data), "average": self.average if self.averages else None, "sizes": sizes}

    def begin(self, model: ImageClassifier, data: DataModule) -> None:
        """Let data and network be evaluated so from now on."""
        data.views, data.crops = None, 1
        model.scores = self.scores

    def scores(self, network: Evaluator, images: Tensor | Views) -> Tensor:
        """Map images [B, 3, H, W], or their views, normalised, to logits [B, classes].

        Of averaged probabilities they are the logarithms: their softmax is the average.
        """
        if isinstance(images, Tensor):
            answers = self.answers(network, images)
        else:
            # A batch's views lie by shape; every image has the same number of them.
            owners = torch.cat(images.owners)
            everything = torch.cat([self.answers(network, views) for views in images.images])
            everything = everything[owners.argsort(stable=True)]
            answers = everything.reshape(images.n_images, -1, everything.shape[-1])
        return averaged(answers, self.average)


class OfPictures(Protocol):
    """A protocol with views of its own, for which pictures are read whole."""

    crops: ClassVar[int]  # how many middles a picture's views are as large as, about

    @abstractmethod
    def views(self, pixels: Pixels, sizes: Sizes) -> Sequence[Pixels]:
        """Return a picture's views, each [h, w, 3], of the whole of it, [H, W, 3]; a loader's worker does it."""

    def check(self, data: DataModule) -> None:
        """Raise UserError where the data's images have no such form."""
        if not isinstance(data, ImageFolder):
            raise UserError(
                f"--protocol {self.name} is of pictures of any size, and {type(data).__name__} has images of "
                f"{data.image_size} x {data.image_size}, which are evaluated whole; allowed: center, flip"
            )

    def begin(self, model: ImageClassifier, data: DataModule) -> None:
        """Let data and network be evaluated so from now on."""
        super().begin(model, data)
        data.views, data.crops = functools.partial(self.views, sizes=data.eval_sizes), self.crops


def averaged(answers: Tensor, average: Average) -> Tensor:
    """Return of each image's views' logits [B, V, classes] logits [B, classes] whose softmax is the average."""
    answers = counted(answers)
    if average == "logits" or answers.shape[1] == 1:
        return answers.mean(1)
    return answers.log_softmax(2).logsumexp(1) - math.log(answers.shape[1])


def mirrored(answer: Any, views: Tensor) -> Tensor:
    """Return a network's answers to views [N, 3, h, w] and to their mirror images, [N, 2, classes]."""
    return torch.stack([answer(views), answer(views.flip(-1))], 1)
