"""A moving average of the weights that no step waits for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Averaging(WeightAveraging):
    """Averages weights and buffers behind every step, and evaluates the average.

    Args:
        average: average, weight and the steps averaged before, a tensor, to the new average.
    """

    def __init__(self, average: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__(avg_fn=average)

    @property
    def state_key(self) -> str:
        """What checkpoints call it, older versions' too."""
        return "EMAWeightAveraging"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the average where a training begins."""
        if stage == "fit":
            self._average_model = _Average(pl_module, pl_module.device, use_buffers=True, **self._kwargs)


class _Average(AveragedModel):
    """torch's average, whose every update asks the device whether it is the first one; here only the first asks."""

    begun = False

    def update_parameters(self, model: nn.Module) -> None:
        if not self.begun:  # since this process began: of a run that goes on, the average is older
            super().update_parameters(model)
            self.begun = True
            return
        assert self.avg_fn is not None
        averages, weights = (chain(one.parameters(), one.buffers()) for one in (self.module, model))
        for average, weight in zip(averages, weights, strict=True):
            average.detach().copy_(self.avg_fn(average.detach(), weight.detach(), self.n_averaged))
        self.n_averaged += 1


def warmed(decay: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the rule of a moving average of weights whose decay warms up: behind t steps min(decay, (1 + t)/(10 + t)).

    It is what ``torch.optim.swa_utils.AveragedModel`` takes: average, weight and steps behind, to the average.
    """

    def average(averaged: Tensor, weight: Tensor, steps: Tensor) -> Tensor:
        kept = ((1 + steps) / (10 + steps)).clamp(max=decay)  # on the device, which is not waited for
        return kept * averaged + (1 - kept) * weight

    return average
