"""Stopping without loss: one owner of every signal that asks a training to stop.

A handler only notes the signal. At the next step or validation batch all processes agree, write
the checkpoint together and leave; the same command goes on from there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from reslightning.errors import SIGNALS, Stopped, stop_at_once
from reslightning.progress import restart_validation


class Preemption(Checkpoint):
    """Saves and leaves when a signal asks for it.

    It is a Checkpoint, so that it runs behind the averaging of weights and behind the Recorder.
    """

    def __init__(self, save_last: Callable[[Trainer], None]) -> None:
        self.save_last = save_last
        self._signal = 0
        self._group: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals; Lightning installs its own handlers just before."""
        owner = os.getpid()

        def note(number: int, frame: FrameType | None) -> None:
            if os.getpid() != owner:
                return  # a forked loader worker's copy
            if self._signal == number == signal.SIGINT:
                stop_at_once(number)  # a second Ctrl-C does not wait
            self._signal = number

        for name in SIGNALS:
            signal.signal(name, note)
        # GPUs need not wait for each other: the processes agree over the network.
        self._group = dist.new_group(backend="gloo") if trainer.world_size > 1 else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop behind an optimizer step; behind an epoch's last one, validation comes first."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not trainer.is_last_batch and (number := self._agreed()):
            self._stop(trainer, number)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a validation, which the resumed run begins with."""
        if not trainer.sanity_checking and (number := self._agreed()):
            self._stop(trainer, number)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop within a validation, which the resumed run begins anew."""
        loader = trainer.val_dataloaders
        fewest = len(loader.dataset) // trainer.world_size // loader.batch_size  # type: ignore[union-attr]
        # Processes may have one batch more or less; all agree after batches that all have.
        if trainer.sanity_checking or batch_idx >= fewest:
            return
        if number := self._agreed():
            # Averaged weights stand in for the trained ones during validation: put them back.
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):
                    callback.on_validation_epoch_end(trainer, pl_module)
            self._stop(trainer, number)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop behind an epoch, which the Recorder has saved; the last one ends the run anyway."""
        if trainer.current_epoch + 1 != trainer.max_epochs and (number := self._agreed()):
            raise Stopped(number)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make a checkpoint written during validation begin with it."""
        if trainer.validating:
            restart_validation(checkpoint)

    def _agreed(self) -> int:
        """Return the signal any process received, 0 if none did; every process calls it."""
        if self._group is None:
            return self._signal
        flag = torch.tensor([self._signal])
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return int(flag.item())

    def _stop(self, trainer: Trainer, number: int) -> None:
        self.save_last(trainer)
        raise Stopped(number)
