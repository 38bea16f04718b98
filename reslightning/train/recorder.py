"""What an epoch leaves behind: a row of metrics, checkpoints, a summary, and one line to read."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from reslightning.data.progress import ends, validate_now
from reslightning.errors import FULL, TrainingError
from reslightning.files import whole
from reslightning.run.directory import Run
from reslightning.run.summary import error_percent
from reslightning.track.metrics_csv import MetricsCSV
from reslightning.train.callbacks import why_stopped
from reslightning.train.classifier import ImageClassifier
from reslightning.train.messages import wrapped
from reslightning.train.throughput import Throughput


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a whole checkpoint, or leaves the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the file.

        Raises:
            TrainingError: the file system or a quota is full.
        """
        target = Path(path)
        content = io.BytesIO()  # first in memory, so that its size is known when a disk is full
        torch.save(checkpoint, content)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)  # a callback's own
            with whole(target) as file:
                file.write(content.getbuffer())
        except OSError as error:
            if error.errno not in FULL:
                raise
            needed, free = content.getbuffer().nbytes, shutil.disk_usage(target.parent).free
            raise TrainingError(
                f"no room for {target}: {needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free "
                f"({error.strerror})\nThe checkpoint from before is whole: make room, and the same command goes on."
            ) from error


class Recorder(Checkpoint):
    """Writes an epoch's row, then last.ckpt, then summary.json; best.ckpt when validation improves.

    One order on purpose: a checkpoint knows how many rows belong to it, and what lies behind them
    is dropped and trained again when a killed run goes on.
    """

    def __init__(self, run: Run, csv: MetricsCSV, throughput: Throughput) -> None:
        self.run = run
        self.csv = csv
        self.throughput = throughput
        self.best: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.stopped: str | None = None  # why a callback has asked training to end

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Be the one who writes down what the module reports."""
        assert isinstance(pl_module, ImageClassifier)
        pl_module.recorded = True

    def state_dict(self) -> dict[str, Any]:
        """Keep the last and best values, the number of rows, and whether training shall end."""
        return {"metrics": self.last, "best": self.best, "rows": self.csv.rows, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self.last, self.best = dict(state_dict["metrics"]), dict(state_dict["best"])
        self.stopped = state_dict.get("stopped")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with a callback's wish to end training, which Lightning keeps in no checkpoint, and with no other."""
        trainer.should_stop = self.stopped is not None

    def save_last(self, trainer: Trainer) -> None:
        """Write last.ckpt and the summary; every process calls it."""
        early = trainer.should_stop and trainer.current_epoch + 1 != trainer.max_epochs
        self.stopped = (self.stopped or why_stopped(trainer)) if early else None
        trainer.save_checkpoint(self.run.last)
        self._summarize(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights that validate best."""
        assert isinstance(pl_module, ImageClassifier)
        metrics = pl_module.metrics
        if trainer.sanity_checking or "val/top1" not in metrics:
            return
        if metrics["val/top1"] > self.best.get("val/top1", -1.0):
            self.best = {name: value for name, value in metrics.items() if name.startswith("val/")}
            self.best["epoch"] = trainer.current_epoch + 1
            trainer.save_checkpoint(self.run.best)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down the epoch; the last one, which a callback may have ended training with, is validated first."""
        assert isinstance(pl_module, ImageClassifier)
        if ends(trainer):
            if "val/top1" not in pl_module.metrics:
                validate_now(trainer)
            pl_module.gather_samples()
        epoch = trainer.current_epoch + 1
        row = {"epoch": epoch, **pl_module.metrics}
        if pl_module.device.type == "cuda":
            row["gpu_memory"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        pl_module.metrics = {}
        self.csv.append(row, trainer.global_step)
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.global_step)
        self.last = row
        self.save_last(trainer)
        pl_module.print(wrapped([_line(row, trainer.max_epochs)]))
        self._report_skipped(trainer, pl_module)

    def _report_skipped(self, trainer: Trainer, module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not data.skips:
            return
        count = trainer.strategy.reduce(torch.tensor(len(data.skipped), device=module.device), reduce_op="sum")
        if int(count):
            names = ", ".join(sorted(set(data.skipped))[:3])
            module.print(f"  {int(count)} corrupt images were replaced by the next ones{f': {names}' if names else ''}")
        data.skipped.clear()

    def _summarize(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            self.run.update(
                metrics=self.last,
                best=self.best,
                epochs=trainer.max_epochs or 0,  # StochasticWeightAveraging adds one
                stopped=self.stopped,
                epoch=int(self.last.get("epoch", 0)),
                global_step=trainer.global_step,
                images_per_second=self.throughput.images_per_second,
                data_wait=self.throughput.data_wait,
            )


def _line(row: dict[str, float], epochs: int | None) -> str:
    text = f"epoch {row['epoch']}/{epochs}  train loss {row['train/loss']:.4f} top-1 error {_error(row, 'train/top1')}"
    if "val/top1" in row:
        text += f"  val loss {row['val/loss']:.4f} top-1 error {_error(row, 'val/top1')}"
    if "val/top5" in row:
        text += f" top-5 {_error(row, 'val/top5')}"
    if "images_per_second" in row:
        text += f"  {row['images_per_second']:,.0f} images/s"
    return text


def _error(row: dict[str, float], name: str) -> str:
    return f"{error_percent(row[name]):.2f} %"
