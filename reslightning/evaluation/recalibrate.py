"""Batch normalisation with exact averages over training images, in place of a training's moving averages.

The paper's authors had them: their released networks' statistics are averages over a large part of the training images,
made behind the training (see also arXiv:2105.07576, Sec. 3, "PreciseBN").
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from reslightning.data.base import DataModule
from reslightning.data.sampler import LANES, WholeBatches
from reslightning.errors import UserError
from reslightning.models.normalization import normalisations
from reslightning.train.classifier import ImageClassifier
from reslightning.train.metrics import accumulator

BATCH = 128  # images that are normalised together, at any number of processes and whatever the training's batch


def _check(model: ImageClassifier, data: DataModule, images: int) -> None:
    """Raise UserError where a network has no such statistics, or data not as many training images."""
    if not normalisations(model):
        raise UserError(f"--recalibrate {images} is nothing to {model.arch}: it has no batch normalisation")
    there = data.n_samples("train")
    if images > there:
        allowed = f"allowed: at most {there}" if there else "There are none: give the data with its training part."
        raise UserError(f"--recalibrate {images} asks for more than the {there} training images\n{allowed}")


def recalibrate(trainer: Trainer, model: ImageClassifier, data: DataModule, images: int | None) -> None:
    """Replace each batch normalisation's mean and variance by those of its inputs over training images.

    The images are drawn by the data's seed, evaluated as validation images are, in fixed batches of ``BATCH``, each
    normalised by its own statistics, as in training. A mean is the mean over all images and places, a variance that
    around it (divided by their number), pooled over the batches: the same bits at any number of processes and workers.

    Args:
        trainer: where it runs.
        model: the network, changed in place on every process.
        data: the data module.
        images: how many training images; None leaves the statistics as they are.

    Raises:
        UserError: the network has no such statistics, or the data not as many training images.
    """
    if images is None:
        return
    _check(model, data, images)
    data.views = None
    trainer.predict(_Statistics(model, data, images), return_predictions=False)


class _Statistics(LightningModule):
    """Looks at training images as a prediction, and leaves their statistics in the network."""

    def __init__(self, model: ImageClassifier, data: DataModule, images: int) -> None:
        super().__init__()
        self.model, self.data, self.images = model, data, images
        self.norms = normalisations(model)
        # Sums by lane, of each lane by one process in one order: number, mean and mean square of each channel.
        self._sums: dict[int, dict[str, Tensor]] = defaultdict(dict)
        self._lane = 0

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return this process's loader of whole batches."""
        trainer: Trainer = self.trainer
        self.sampler = WholeBatches(
            self.data.n_samples("train"),
            self.images,
            BATCH,
            seed=self.data.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return self.data.loader("train", self.sampler, BATCH)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Raise what a worker could not read."""
        self.data.indices(batch)
        return batch

    def on_predict_start(self) -> None:
        """See what comes to every batch normalisation."""
        self._hooks = [
            norm.register_forward_pre_hook(lambda norm, inputs, name=name: self._look(name, norm, *inputs))
            for name, norm in self.norms.items()
        ]

    def predict_step(self, batch: Any, batch_idx: int) -> int:
        """Let the network see a batch, and return how many images it has."""
        images, _ = self.data.evaluation_batch(batch, "train")
        self._lane = self.sampler.numbers[batch_idx] % LANES
        return len(self.model(images))

    def _look(self, name: str, norm: Any, inputs: Tensor) -> None:
        """Add a batch's inputs [B, C, ...] to the sums, and normalise it by its own statistics."""
        others = [axis for axis in range(inputs.ndim) if axis != 1]
        variance, mean = torch.var_mean(inputs.to(accumulator(inputs.device)), others, correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        count = torch.full_like(mean, inputs.numel() / inputs.shape[1])
        found = torch.stack([count, count * mean, count * (variance + mean.square())])
        sums = self._sums[self._lane]
        sums[name] = sums[name] + found if name in sums else found

    def on_predict_end(self) -> None:
        """Add up all processes' lanes in one order, and leave the result in the network."""
        for hook in self._hooks:
            hook.remove()
        mine = {lane: {name: found.cpu() for name, found in sums.items()} for lane, sums in self._sums.items()}
        parts: list[Any] = [mine]
        if self.trainer.world_size > 1:
            parts = [None] * self.trainer.world_size
            dist.all_gather_object(parts, mine)
        lanes = {lane: sums for part in parts for lane, sums in part.items()}
        for name, norm in self.norms.items():
            count, total, squares = torch.stack([lanes[lane][name] for lane in sorted(lanes)]).sum(0)
            mean = total / count
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_((squares / count - mean.square()).clamp(min=0))
