"""fit as a way that is measured: its own steps, by their parts, and without what can be left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from reslightning.commands.bench_ways import PARTS, WITHOUT, Turns
from reslightning.errors import UserError
from reslightning.train.preemption import Preemption
from reslightning.train.throughput import now


def fit(turns: Turns, words: Sequence[str]) -> None:
    """Train as the command ``fit`` with these words does, and measure its own steps."""
    from reslightning.cli.lightning_cli import CLI
    from reslightning.commands.train import carry_out

    InFit.turns = turns
    callback = f"{InFit.__module__}.{InFit.__qualname__}"
    endless = {"trainer.max_epochs": 10**6, "trainer.check_val_every_n_epoch": 10**6, "checkpoint_minutes": 10**6}
    options = [word for name, value in endless.items() for word in (f"--{name}", str(value))]
    line = ["fit", *words, *options, "--wandb.mode", "disabled", "--trainer.callbacks+", callback]
    carry_out(lambda: CLI(line))


class InFit(Callback):
    """Measures the steps of the training that it is a callback of, epochs' ends left out."""

    turns: ClassVar[Turns]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the first turn."""
        if trainer.num_training_batches < 2:
            raise UserError("an epoch has one step, and is too short to measure\nGive a smaller --batch_size.")
        self.turns.device = pl_module.device
        self._begin(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Measure, and wait behind a turn's last step."""
        if self.turns.stepped():
            self.turns.tell(self._parts.spent if self._parts else {})
            self._restore()
            self._begin(trainer, pl_module)
        elif self._parts:
            self._parts.go_on()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out what is done between epochs."""
        self.turns.pause()
        if self._parts:
            self._parts.pause()

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        what = self.turns.wait().what
        self._parts = Parts(self.turns.device) if what == PARTS else None
        self._restore: Callable[[], object] = lambda: None
        if self._parts:
            self._restore = self._parts.watch(trainer, module)
        elif what in WITHOUT:
            self._restore = _without(what, trainer, module)


def _without(what: str, trainer: Trainer, module: LightningModule) -> Callable[[], object]:
    """Take agreement or metrics out of a step, and return what puts them back."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    preemption = next(one for one in callbacks if isinstance(one, Preemption))
    taken: dict[str, list[tuple[Any, str]]] = {
        "agreement": [(preemption, "on_train_batch_end")],
        "metrics": [(module.train_metrics, "update"), (module, "on_before_optimizer_step"), (module, "_check")],
    }
    before = [(vars(owner), name, vars(owner).get(name)) for owner, name in taken[what]]
    for attributes, name, _ in before:
        attributes[name] = lambda *given, **named: None

    def restore() -> None:
        for attributes, name, own in before:
            if own is None:
                del attributes[name]  # the class's is looked up again
            else:
                attributes[name] = own

    return restore


class Parts(Profiler):
    """Adds up the seconds of a step's parts, each without what is done within it.

    Args:
        device: what is waited for between them.
    """

    REST = "rest of the Trainer"
    # The ends of what Lightning calls its actions.
    ROWS: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": ("train_dataloader_next", "on_before_batch_transfer"),
        "transfer": ("transfer_batch_to_device",),
        "augmentation": ("on_after_batch_transfer",),
        "forward": ("forward",),
        "loss and metrics": (
            "training_step",
            "ImageClassifier.on_before_optimizer_step",
            "Throughput.on_train_batch_end",
        ),
        "backward": (".backward",),
        "optimizer": (".optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"),
        "agreement": ("Preemption.on_train_batch_end",),
    }

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._open: list[str] = []
        self._last: float | None = None
        self.spent = dict.fromkeys([*self.ROWS, self.REST], 0.0)

    def watch(self, trainer: Trainer, module: LightningModule) -> Callable[[], object]:
        """Be the Trainer's profiler; return what ends that."""
        before = trainer.profiler  # type: ignore[attr-defined]
        hooks = [
            module.register_forward_pre_hook(lambda *_: self.start("forward")),
            module.register_forward_hook(lambda *_: self.stop("forward")),
        ]
        trainer.profiler = self  # type: ignore[attr-defined]

        def restore() -> None:
            trainer.profiler = before  # type: ignore[attr-defined]
            for hook in hooks:
                hook.remove()

        return restore

    def go_on(self) -> None:
        """Count from now on."""
        self._last = now(self._device) if self._last is None else self._last

    def pause(self) -> None:
        """Count nothing, until it goes on."""
        self._lap()
        self._last = None

    def start(self, action_name: str) -> None:
        """Begin an action, within another one perhaps."""
        self._lap()
        self._open.append(next((row for row, ends in self.ROWS.items() if action_name.endswith(ends)), self.REST))

    def stop(self, action_name: str) -> None:
        """End the innermost action."""
        self._lap()
        if self._open:  # what was begun before is not
            self._open.pop()

    def _lap(self) -> None:
        if self._last is not None:
            at = now(self._device)
            self.spent[self._open[-1] if self._open else self.REST] += at - self._last
            self._last = at
