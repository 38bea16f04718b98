"""Images per second of training alone, and the share of its time that it waits for data.

Both without validation and without a segment's first steps.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

WARM_UP = 10  # steps of a segment in which caches fill and kernels compile


class Throughput(Callback):
    """Reports ``images_per_second`` over all devices and ``data_wait`` for each epoch, and for the run so far.

    Waiting is what lies between a step's end and the next batch's arrival from the loader, unless a GPU is
    still at work by then.

    Lightning's ThroughputMonitor waits for the device at every step; this one once per epoch.
    """

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self.waited = 0.0
        self._epoch: tuple[int, float] = (0, 0.0)
        self._epoch_waited = 0.0
        self._ended: float | None = None
        self._working: Any = None  # an event behind the GPU's last step
        self._since: float | None = None
        self._counted = 0
        self._steps = 0

    @property
    def images_per_second(self) -> float | None:
        """The run's average; None before anything was measured."""
        return self.images / self.seconds if self.seconds else None

    @property
    def data_wait(self) -> float | None:
        """The share of the run's time that was spent waiting for data; None before anything was measured."""
        return self.waited / self.seconds if self.seconds else None

    def state_dict(self) -> dict[str, Any]:
        """Keep the run's totals over a resume."""
        return {"images": self.images, "seconds": self.seconds, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the totals."""
        self.images, self.seconds = state_dict["images"], state_dict["seconds"]
        self.waited = state_dict.get("waited", 0.0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock behind the warm-up and behind each pause."""
        if self._since is not None and self._ended is not None:
            arrived = trainer.datamodule.arrived  # type: ignore[attr-defined]
            if self._working is None or self._working.query():
                self._epoch_waited += max(arrived - self._ended, 0.0)
        if self._since is None and self._steps >= WARM_UP:
            self._since, self._counted = now(pl_module.device), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self._steps += 1
        self._counted += len(batch[1]) * trainer.world_size
        self._ended = time.perf_counter()
        if pl_module.device.type == "cuda":
            self._working = torch.cuda.Event()
            self._working.record()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._pause(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch."""
        self._pause(pl_module)
        images, seconds = self._epoch
        if seconds:
            speed = {"images_per_second": images / seconds, "data_wait": self._epoch_waited / seconds}
            pl_module.metrics.update(speed)  # type: ignore[operator,union-attr]
        self.images, self.seconds = self.images + images, self.seconds + seconds
        self.waited += self._epoch_waited
        self._epoch, self._epoch_waited = (0, 0.0), 0.0

    def _pause(self, module: LightningModule) -> None:
        if self._since is not None:
            images, seconds = self._epoch
            self._epoch = (images + self._counted, seconds + now(module.device) - self._since)
            self._since = self._ended = None


def now(device: torch.device) -> float:
    """Return the seconds of a clock, once a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
