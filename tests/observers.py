"""Callbacks for tests: note what was trained, and send signals at chosen moments."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from lightning.pytorch import Callback


class Note(Callback):
    """Append rank, epoch, step and sample indices of every trained batch to FILE.RANK."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        with Path(f"{self.file}.{trainer.global_rank}").open("a") as file:
            indices = " ".join(map(str, batch[2].tolist()))
            file.write(f"{trainer.current_epoch} {trainer.global_step} {indices}\n")


class Strike(Callback):
    """Send a signal to this process once, at a global step in training or a batch of validation.

    The mark file says that it struck, where, and keeps the resumed run from striking again.
    """

    def __init__(self, mark: str, step: int, place: str = "train", name: str = "SIGTERM", rank: int = 0) -> None:
        self.mark, self.step, self.place, self.signal, self.rank = Path(mark), step, place, signal.Signals[name], rank

    def _strike(self, trainer, place):
        if trainer.global_rank == self.rank and not self.mark.exists():
            self.mark.write_text(f"{place} {trainer.global_step}")
            os.kill(os.getpid(), self.signal)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.place == "train" and trainer.global_step == self.step:
            self._strike(trainer, "train")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if self.place == "val" and trainer.global_step == self.step and batch_idx == 0:
            self._strike(trainer, "val")

    def on_train_epoch_end(self, trainer, pl_module):
        if self.place == "epoch end" and trainer.global_step == self.step:
            self._strike(trainer, "epoch end")


class Poison(Callback):
    """Make the weights not finite before a global step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            pl_module.model.fc.weight.data.fill_(float("nan"))
