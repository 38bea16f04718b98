"""Training and evaluation on the device by the hooks that the Trainer calls, in its order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from reslightning import ImageClassifier
from reslightning.data.base import DataModule
from tests.device.pretended import CUDA
from tests.small import Uneven

BATCH = 16


def noise(**options: Any) -> Uneven:
    """Return images in memory, read before the device is there."""
    data = Uneven(batch_size=BATCH, **options)
    data.setup()
    return data


class Training:
    """What a Trainer would do with a network and its data, less the Trainer.

    Args:
        model: the network.
        data: the data.
        precision: 32-true, or with autocast bf16-mixed.
        clip: the length that gradients are clipped to, 0 for none.
    """

    def __init__(
        self, model: ImageClassifier, data: DataModule, *, precision: str = "32-true", clip: float = 0.0
    ) -> None:
        self.model, self.data, self.clip = model, data, clip
        self.precision = Precision() if precision == "32-true" else MixedPrecision(precision, "cuda")
        self.trainer = SimpleNamespace(
            datamodule=data,
            callbacks=[],
            training=True,
            validating=False,
            testing=False,
            sanity_checking=False,
            current_epoch=0,
            global_step=0,
            world_size=1,
            is_last_batch=False,
            is_global_zero=True,
            should_stop=False,
            max_epochs=2,
            accumulate_grad_batches=1,
            limit_train_batches=1.0,
            limit_val_batches=1.0,
            state=SimpleNamespace(fn=TrainerFn.FITTING),
            strategy=SingleDeviceStrategy(CUDA),
        )
        self.callbacks: list[Callback] = []

    def start(self) -> Training:
        """Move the network to the device, and make its optimizer, for a training."""
        self.move("fit")
        made = self.model.configure_optimizers()
        self.optimizer, self.scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.model.train()
        return self

    def move(self, stage: str) -> Training:
        """Move the network to the device."""
        self.data.trainer = self.model.trainer = self.trainer
        self.callbacks = list(self.model.configure_callbacks())
        self.model._device = CUDA  # said ahead to whoever sets up, before weights are there
        for callback in self.callbacks:
            callback.setup(self.trainer, self.model, stage)
        self.model.setup(stage)
        self.model.to(CUDA)
        return self

    def transferred(self, batch: Any) -> Any:
        """Return what a step is given of what a loader gave."""
        batch = self.data.on_before_batch_transfer(batch, 0)
        batch = self.data.transfer_batch_to_device(batch, CUDA, 0)
        return self.data.on_after_batch_transfer(batch, 0)

    def step(self, batch: Any, number: int) -> None:
        """Train one batch, the ``number``-th of its epoch, from 0."""
        batch = self.transferred(batch)
        for callback in self.callbacks:
            callback.on_train_batch_start(self.trainer, self.model, batch, number)
        with self.precision.forward_context():
            loss = self.model.training_step(batch, number)
        self.optimizer.zero_grad()
        loss.backward()
        self.model.on_before_optimizer_step(self.optimizer)
        self.precision.clip_gradients(self.optimizer, self.clip)
        self.optimizer.step()
        self.scheduler.step()
        self.trainer.global_step += 1
        for callback in self.callbacks:
            callback.on_train_batch_end(self.trainer, self.model, loss, batch, number)

    def begin_validation(self) -> None:
        """Evaluate from now on."""
        self.trainer.training, self.trainer.validating = False, True
        self.model.eval()
        self.model.on_validation_epoch_start()

    def validate(self, batch: Any, number: int) -> None:
        """Evaluate one batch, the ``number``-th of its epoch, from 0."""
        with torch.no_grad():
            self.model.validation_step(self.transferred(batch), number)


def indices(first: int = 0, count: int = BATCH) -> Tensor:
    """Return what the loader of images in memory gives."""
    return torch.arange(first, first + count)
