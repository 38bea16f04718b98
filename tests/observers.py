"""Callbacks for tests: note what was trained, and send signals at chosen moments."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback

from reslightning.run import layout
from reslightning.train import recorder


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


class Buckets(Callback):
    """Note whether gradients lie where they are reduced."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_end(self, trainer, pl_module):
        self.file.write_text(str(trainer.strategy.model.gradient_as_bucket_view))


class Poison(Callback):
    """Make the weights not finite before a global step, once where a mark file is named."""

    def __init__(self, step: int, mark: str | None = None) -> None:
        self.step, self.mark = step, mark and Path(mark)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and not (self.mark and self.mark.exists()):
            if self.mark:
                self.mark.touch()
            pl_module.model.fc.weight.data.fill_(float("nan"))


class Lose(Callback):
    """Find once, at a global step, that another process has gone, which may have left a mistake of the user's."""

    def __init__(self, mark: str, step: int, mistake: str | None = None) -> None:
        self.mark, self.step, self.mistake = Path(mark), step, mistake

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and not self.mark.exists():
            self.mark.touch()
            if self.mistake:
                (Path(trainer.default_root_dir) / layout.MISTAKE).write_text(self.mistake)
            raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:17300")


class Hold(Callback):
    """Wait at moments like "train:7,val:10" until FOLDER/MOMENT.go exists; FOLDER/MOMENT says that it waits.

    Only rank 0 waits, the others for it; a moment that was reached before is passed.
    """

    def __init__(self, folder: str, moments: str) -> None:
        self.folder, self.moments = Path(folder), moments.split(",")

    def _wait(self, trainer, place):
        moment = f"{place}:{trainer.global_step}"
        mark = self.folder / moment
        if trainer.global_rank == 0 and moment in self.moments and not mark.exists():
            mark.touch()
            while not mark.with_name(f"{moment}.go").exists():
                time.sleep(0.05)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._wait(trainer, "train")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self._wait(trainer, "val")


class Die(Callback):
    """Kill this process, once, at a point of the COUNT-th time that a checkpoint is written.

    Points: "before", "writing" a share of the bytes, "syncing", "renaming", "renamed"; on a rank other than 0,
    which writes nothing, when it would. "orders" takes point, count and share from a file "orders" beside the mark,
    so that several kills are of one configuration.
    """

    def __init__(self, mark: str, point: str, count: int = 2, share: float = 0.5, rank: int = 0) -> None:
        self.mark, self.point, self.count, self.share, self.rank = Path(mark), point, count, share, rank

    def on_train_start(self, trainer, pl_module):
        if trainer.global_rank != self.rank or self.mark.exists():
            return
        if self.point == "orders":
            self.point, count, share = self.mark.with_name("orders").read_text().split()
            self.count, self.share = int(count), float(share)
        if self.rank:
            self._wrap(trainer.strategy, "save_checkpoint", self._die)
            return
        if self.point in ("before", "writing"):
            self._wrap(recorder, "whole", self._write)
        elif self.point == "syncing":
            self._wrap(
                os, "fsync", self._die, lambda handle: ".ckpt." in str(Path(f"/proc/self/fd/{handle}").readlink())
            )
        else:
            self._wrap(Path, "replace", self._rename, lambda old, new: new.suffix == ".ckpt")

    def _wrap(self, owner, name, strike, concerns=lambda *_: True):
        real, calls = getattr(owner, name), [0]

        def wrapped(*args, **kwargs):
            calls[0] += concerns(*args)
            if calls[0] == self.count and concerns(*args):
                strike(real, *args)
            return real(*args, **kwargs)

        setattr(owner, name, wrapped)

    def _write(self, whole, path):
        if self.point == "before":
            self._die()
        before = path.read_bytes() if path.exists() else bytes(100_000)
        with whole(path) as file:
            file.write(before[: int(len(before) * self.share)])
            file.flush()
            self._die()

    def _rename(self, replace, old, new):
        if self.point == "renamed":
            replace(old, new)
        self._die()

    def _die(self, *_):
        self.mark.write_text(self.point)
        os.kill(os.getpid(), signal.SIGKILL)


class Turn(Callback):
    """Change values of the optimizer's groups before every batch, as some schedules do."""

    def __init__(self, values: dict[str, float]) -> None:
        self.values = values

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for group in trainer.optimizers[0].param_groups:
            group.update(self.values)


class StopAt(Callback):
    """End training behind a global step, as EarlyStopping does behind an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


class Claim(Callback):
    """Claim a metric's value behind an evaluation."""

    def __init__(self, name: str, value: float) -> None:
        self.name, self.value = name, value

    def on_test_end(self, trainer, pl_module):
        pl_module.metrics[self.name] = self.value


class Log(Callback):
    """Log a metric of one's own, which never changes."""

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("mine", 1.0)


class Answers(Callback):
    """Save the logits, labels and indices of every evaluation's samples as FILE.EVALUATION.RANK, counted from 0."""

    def __init__(self, file: str) -> None:
        self.file, self.parts, self.count = file, [], 0

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.parts.append(outputs)

    def on_test_epoch_end(self, trainer, pl_module):
        found = {key: torch.cat([part[key] for part in self.parts]) for key in self.parts[0]}
        torch.save(found, f"{self.file}.{self.count}.{trainer.global_rank}")
        self.parts, self.count = [], self.count + 1
