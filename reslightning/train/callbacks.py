"""Which of Lightning's callbacks a run takes, what they may monitor, and why one of them ended it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    SpikeDetection,
    StochasticWeightAveraging,
    ThroughputMonitor,
    Timer,
    WeightAveraging,
)

from reslightning.errors import UserError, near_misses
from reslightning.run.directory import Run
from reslightning.train.metrics import TOP5_FROM

if TYPE_CHECKING:
    from reslightning.train.classifier import ImageClassifier

# What would change a run behind its identity, or could not go on to the same bits: why, and what to do instead.
REFUSED: dict[type[Callback], tuple[str, str]] = {
    LearningRateFinder: (
        "it would train at another rate than the run is named by and its config.yaml says",
        "Train a few short runs with --trainer.max_epochs 1 and several --model.optim.lr, and give the best one.",
    ),
    BatchSizeFinder: (
        "it would train with another batch size than the run is named by and its config.yaml says",
        "Give --data.batch_size, the samples of a step; --trainer.accumulate_grad_batches splits them to fit memory.",
    ),
    BackboneFinetuning: (
        "the network has no part named backbone, and its parameters' groups are the optimizer's from the start",
        "Give --model.frozen_stages to leave early stages as they are, or --model.optim.body_lr for a lower rate of "
        "all but the final layer.",
    ),
    GradientAccumulationScheduler: (
        "data.batch_size is the samples of every step, and the learning rate's schedule counts on as many steps in "
        "every epoch",
        "Give --trainer.accumulate_grad_batches for all of them.",
    ),
    ModelPruning: (
        "its masks are in no checkpoint, so that a run which is stopped would go on with other weights",
        "Train without it, and prune the finished network with torch.nn.utils.prune.",
    ),
    SpikeDetection: (
        "Lightning cannot restore it from a checkpoint, so that a run which is stopped could not go on",
        "Leave it out: a loss that is not finite ends training by itself; --trainer.gradient_clip_val 1 prevents many.",
    ),
    OnExceptionCheckpoint: (
        "a run keeps last.ckpt however it ends, and goes on from it",
        "Leave it out; --checkpoint_minutes says how often last.ckpt is written within an epoch.",
    ),
}
LOGGING = (LearningRateMonitor, DeviceStatsMonitor, ThroughputMonitor)  # whose values go to loggers, at any step
TRAINED = ("train/loss", "train/top1", "lr", "momentum", "weight_decay", "grad_norm", "samples")  # behind an epoch
VALIDATED = ("val/loss", "val/top1", "val/top5", "val/balanced", "val/calibration", "val/n_samples")


KNOWN = ("lightning.", "pytorch_lightning.", "reslightning.")  # whose callbacks log no metrics of their own


def monitored(classes: int) -> list[str]:
    """Return the metrics that a callback may monitor."""
    return [name for name in (*TRAINED, *VALIDATED) if name != "val/top5" or classes >= TOP5_FROM]


def check_callbacks(callbacks: Sequence[Callback], model: ImageClassifier, validated: int, *, logged: bool) -> None:
    """Refuse callbacks that a run could not take, before anything is made.

    Args:
        callbacks: those that are given by option.
        model: what is trained.
        validated: epochs from one validation to the next.
        logged: whether there is a logger besides metrics.csv.

    Raises:
        UserError: why one cannot be taken, and what to do instead.
    """
    for callback in callbacks:
        name = type(callback).__name__
        for refused, (why, instead) in REFUSED.items():
            if isinstance(callback, refused):
                raise UserError(f"the callback {name} is not supported: {why}\n{instead}")
        if isinstance(callback, LOGGING) and not logged:
            raise UserError(
                f"the callback {name} has no logger to write to: metrics.csv has a row an epoch, with lr and "
                "images_per_second\nLeave it out, or give --trainer.logger CSVLogger --trainer.logger.save_dir FOLDER, "
                "or --wandb.mode offline."
            )
        if isinstance(callback, DeviceStatsMonitor) and importlib.util.find_spec("psutil") is None:
            raise UserError(f"the callback {name} needs the package psutil: pip install psutil, or leave it out")
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
            _check_monitor(callback, model.num_classes, callbacks)
            _check_moment(callback, validated)
        if isinstance(callback, ModelCheckpoint) and callback.save_on_exception:
            why, instead = REFUSED[OnExceptionCheckpoint]
            raise UserError(f"{name}.save_on_exception is not supported: {why}\n{instead}")
    _check_averaging(callbacks, model)


def _check_averaging(callbacks: Sequence[Callback], model: ImageClassifier) -> None:
    """Refuse two averages of the weights, and one that a run which ends early would never come to."""
    names = [type(one).__name__ for one in callbacks if isinstance(one, WeightAveraging | StochasticWeightAveraging)]
    names += ["model.ema_decay"] * (model.hparams["ema_decay"] is not None)
    if len(names) > 1:
        raise UserError(f"weights are averaged twice, by {names[0]} and by {names[1]}\nGive one of them.")
    ending = [type(one).__name__ for one in callbacks if isinstance(one, EarlyStopping | Timer)]
    if ending and any(isinstance(one, StochasticWeightAveraging) for one in callbacks):
        raise UserError(
            f"StochasticWeightAveraging takes its average behind the last epoch, which {ending[0]} may end training "
            "before\nLeave one of them out, or average by --model.ema_decay, which counts from the start."
        )


def check_monitors(callbacks: Sequence[Callback], classes: int) -> None:
    """Raise UserError for a callback that monitors a metric which nobody logs."""
    for callback in callbacks:
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
            _check_monitor(callback, classes, callbacks)


def _check_monitor(callback: EarlyStopping | ModelCheckpoint, classes: int, callbacks: Sequence[Callback]) -> None:
    """Refuse a metric that there is not; a callback that is not Lightning's may log others."""
    known = monitored(classes) + ["epoch", "step"] * isinstance(callback, ModelCheckpoint)
    name, metric = type(callback).__name__, str(callback.monitor)
    if metric in known:
        return
    if metric == "val/top5":
        raise UserError(
            f"{name} monitors val/top5, which there is from {TOP5_FROM} classes on, and here are {classes}\nallowed: "
            f"{', '.join(known)}"
        )
    if all(type(other).__module__.startswith(KNOWN) for other in callbacks):
        raise UserError(
            f"{name} monitors {metric!r}, and there is no such metric{near_misses(metric, known)}\nallowed: "
            f"{', '.join(known)}"
        )


def _check_moment(callback: EarlyStopping | ModelCheckpoint, validated: int) -> None:
    """See that a metric is looked at when it is new; of where nobody says, choose that."""
    option = "check_on_train_epoch_end" if isinstance(callback, EarlyStopping) else "save_on_train_epoch_end"
    late, metric, name = getattr(callback, f"_{option}"), callback.monitor, type(callback).__name__
    if isinstance(callback, ModelCheckpoint) and not callback.every_n_epochs:
        raise UserError(
            f"{name} monitors {metric}, which is known behind whole epochs\nGive {name}.every_n_epochs, or no monitor."
        )
    if metric in TRAINED and late is False:
        raise UserError(f"{name} monitors {metric}, which is known behind the validation\nLeave {option} out.")
    if metric in VALIDATED and late and validated > 1:
        raise UserError(
            f"{name} monitors {metric}, which there is every {validated} epochs (trainer.check_val_every_n_epoch), but "
            f"would look at it behind every epoch\nLeave {option} out."
        )
    if metric in TRAINED:
        setattr(callback, f"_{option}", True)  # Lightning's choice is the validation's end, where it is an epoch old


def keep_apart(callbacks: Sequence[Callback], run: Run) -> None:
    """Give the checkpoints of callbacks a folder beside the run's own, where none is given.

    Raises:
        UserError: the folder that is given is the run's own, whose last.ckpt and best.ckpt are the run.
    """
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint):
            if callback.dirpath is None:
                callback.dirpath = str(run.others.resolve())
            elif Path(callback.dirpath).resolve() == run.checkpoints.resolve():
                raise UserError(
                    f"ModelCheckpoint.dirpath={callback.dirpath} is the run's own folder\nGive another, or none, which "
                    f"means {run.others}."
                )


def why_stopped(trainer: Trainer) -> str:
    """Return why a callback has asked training to end."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return f"EarlyStopping: {callback.stopping_reason_message}".removesuffix(" Signaling Trainer to stop.")
    for callback in callbacks:
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            return "Timer: its time is over"
    return "a callback asked for it"
