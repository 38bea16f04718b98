"""Stopping without loss: one owner of every signal that asks a training to stop.

A handler only notes the signal. At the next step or validation batch the process stops; of several
each asks the others there, and nobody waits: what was asked is answered a step later, when all write
the checkpoint together and leave. The same command goes on from there. For what gives no signal, a
checkpoint is written now and then within an epoch, too.
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, StochasticWeightAveraging, WeightAveraging

from reslightning.cluster.requeue import REQUEUE_SIGNALS
from reslightning.data.progress import ends, lost_process, restart_validation, stops_early
from reslightning.errors import SIGNALS, Stopped, TrainingError, stop_at_once, stop_wanted

RANK = 1000  # puts a signal that asks for a requeue before those that do not
SAVE = 1  # only a checkpoint is due; less than any signal's number that is asked for


class Preemption(Checkpoint):
    """Saves and leaves when a signal asks for it, and saves when the last checkpoint is old.

    It is a Checkpoint, so that it runs behind the averaging of weights and behind the Recorder.

    Args:
        save_last: writes the checkpoint; every process calls it.
        interval: seconds between checkpoints, 0 for one at every step; of several processes not at the first.
    """

    def __init__(self, save_last: Callable[[Trainer], None], interval: float) -> None:
        self.save_last = save_last
        self.interval = interval
        self._signal = 0
        self._saved = 0.0
        self._group: Any = None
        self._question: tuple[dist.Work, torch.Tensor] | None = None  # on its way, and where its answer will be
        self._swa: StochasticWeightAveraging | None = None

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """Take what fails behind a signal for the stop that it asked for.

        A terminal and Slurm send it to all of a job's processes, and it ends the compiler that torch.compile waits
        for, say; the same command goes on from the last checkpoint.
        """
        try:
            yield
        except RuntimeError as error:
            if not self._signal or isinstance(error, TrainingError) or lost_process(error):
                raise
            raise Stopped(self._signal) from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals; Lightning installs its own handlers just before."""
        owner = os.getpid()

        def note(number: int, frame: FrameType | None) -> None:
            if os.getpid() != owner:
                return  # a forked loader worker's copy
            if self._signal == number == signal.SIGINT:
                stop_at_once(number)  # a second Ctrl-C does not wait
            if self._signal not in REQUEUE_SIGNALS:  # the SIGTERM that follows must not undo the requeue
                self._signal = number

        for name in SIGNALS:
            signal.signal(name, note)
        self._signal = stop_wanted() or self._signal
        self._saved = time.monotonic()
        # GPUs need not wait for each other: the processes agree over the network.
        self._group = dist.new_group(backend="gloo") if trainer.world_size > 1 else None
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._swa = next((one for one in callbacks if isinstance(one, StochasticWeightAveraging)), None)
        if self._swa and trainer.fit_loop.restarted_mid_epoch:
            _rejoin(self._swa, trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop behind an optimizer step; behind an epoch's last one, validation comes first."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not stepped or trainer.is_last_batch or self._ending(trainer):
            return
        number = self._heard(self._due(trainer))
        if number == SAVE:
            self.save_last(trainer)
            self._saved = time.monotonic()
        elif number:
            self._stop(trainer, number)
        self._ask(self._due(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a validation, which the resumed run begins with."""
        if not trainer.sanity_checking and not self._ending(trainer) and (number := self._agreed()):
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
        if trainer.sanity_checking or self._ending(trainer) or batch_idx >= fewest:
            return
        if number := self._heard():
            # Averaged weights stand in for the trained ones during validation: put them back.
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):
                    callback.on_validation_epoch_end(trainer, pl_module)
            self._stop(trainer, number)
        self._ask()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop behind an epoch, which the Recorder has saved; the last one ends the run anyway."""
        self._saved = time.monotonic()
        averaged = self._swa is not None and trainer.current_epoch + 2 == trainer.max_epochs
        if not averaged and not ends(trainer) and (number := self._agreed()):
            raise Stopped(number)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave no question open, of which another process may wait to be rid."""
        self._answer()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make a checkpoint written during validation begin with it."""
        if trainer.validating:
            restart_validation(checkpoint)

    def _ending(self, trainer: Trainer) -> bool:
        """Whether what runs only closes a training that nobody could take up: it is short, and not interrupted.

        A callback's wish to end within an epoch is in no checkpoint, nor is the pass over the data with which
        StochasticWeightAveraging gives its average statistics.
        """
        last = trainer.current_epoch + 1 == trainer.max_epochs
        return stops_early(trainer) or (self._swa is not None and last)

    def _due(self, trainer: Trainer) -> int:
        """Return SAVE where the first process finds that a checkpoint is due."""
        return SAVE * (trainer.is_global_zero and time.monotonic() - self._saved >= self.interval)

    def _agreed(self) -> int:
        """Return the signal any process has received, whichever was asked for before; every process waits for it."""
        self._answer()
        self._ask()
        return self._heard()

    def _heard(self, wish: int = 0) -> int:
        """Return the signal any process had received when it last asked, else the largest wish; alone, this one's."""
        return self._signal or wish if self._group is None else self._answer()

    def _ask(self, wish: int = 0) -> None:
        """Tell the others of this process's signal, else of its wish; every process calls it."""
        if self._group is not None:
            weight = RANK * (self._signal in REQUEUE_SIGNALS)
            flag = torch.tensor([weight + (self._signal or wish)])
            work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
            self._question = work, flag

    def _answer(self) -> int:
        """Return what all processes were asked last, the most of it; 0 where nothing is open."""
        if self._question is None:
            return 0
        (work, flag), self._question = self._question, None
        work.wait()
        return int(flag.item()) % RANK

    def _stop(self, trainer: Trainer, number: int) -> None:
        self.save_last(trainer)
        raise Stopped(number)


def _rejoin(averaging: StochasticWeightAveraging, trainer: Trainer, module: LightningModule) -> None:
    """Set up the averaging, as Lightning does at an epoch's start alone, where a run goes on within one."""
    groups = trainer.optimizers[0].param_groups
    kept = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    weights = copy.deepcopy(module.state_dict())
    averaging.on_train_epoch_start(trainer, module)
    module.load_state_dict(weights)
    for group, values in zip(groups, kept, strict=True):
        group.update(values)  # the schedule that it makes takes a step
