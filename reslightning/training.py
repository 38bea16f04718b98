"""One segment of a run: from the checks before it, over what it says at its start, to its end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from reslightning.callbacks.preemption import Preemption
from reslightning.callbacks.recorder import Recorder
from reslightning.callbacks.throughput import Throughput
from reslightning.classifier import ImageClassifier
from reslightning.data.base import DataModule, prepare
from reslightning.errors import Stopped, TrainingError, UserError
from reslightning.models.architectures import cost, resolve_options
from reslightning.models.weights import check_fit, read_checkpoint
from reslightning.progress import finished_epochs, syncs_batchnorm
from reslightning.reference import published
from reslightning.runs import Run, determining, identity, versions, write_atomically
from reslightning.tracking import MetricsCSV, SafeWandbLogger, Wandb, start_wandb

SMALL_IMAGE = 64  # pixels under which ImageNet's stem leaves next to nothing
SMALL_BATCH = 16  # samples under which batch normalisation's statistics get noisy


class Segment:
    """Trains a run from where it stands, and leaves its directory true whatever happens.

    Args:
        run: the run directory.
        config: the complete configuration, plain values.
        config_text: the same as YAML, for config.yaml.
        fresh: whether the command asked for a new run, so that repeating it would start another.
    """

    def __init__(self, run: Run, config: Mapping[str, Any], config_text: str, *, fresh: bool = False) -> None:
        self.run = run
        self.config = config
        self.config_text = config_text
        self.fresh = fresh
        self.csv = MetricsCSV(run.metrics)
        self.throughput = Throughput()
        self.recorder = Recorder(run, self.csv, self.throughput)
        self.wandb: SafeWandbLogger | None = None
        self.position = (0, 0)  # epochs finished and steps taken before this segment
        self.state: dict[str, Any] = {}

    def callbacks(self) -> list[Callback]:
        """Return the callbacks every training has, in the order they must run."""
        return [self.throughput, self.recorder, Preemption(self.recorder.save_last)]

    def fit(self, trainer: Trainer, model: ImageClassifier, data: DataModule, wandb: Wandb, start: str | None) -> None:
        """Train to the end, or until stopped; ``start`` is a checkpoint for a run without one."""
        check(data, trainer)
        self._checkpoint(model, start)
        if self.leads:
            self.run.open()
        try:
            # Again: another writer may have gone on until the lock was ours.
            checkpoint = self._checkpoint(model, start)
            self._train(trainer, model, data, wandb, checkpoint)
        finally:
            self.run.close()

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes."""
        return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]

    def _checkpoint(self, model: ImageClassifier, start: str | None) -> Path | None:
        """Return the checkpoint to go on from, once it is known to fit."""
        own = self.run.last.is_file()
        if not own and not start:
            return None
        path = self.run.last if own else Path(str(start)).expanduser()
        if not path.is_file():
            raise UserError(f"no checkpoint at {path}; give the path of a last.ckpt or best.ckpt as --ckpt_path")
        content = read_checkpoint(path)
        if "loops" not in content or "train_sums" not in content:
            raise UserError(
                f"{path} holds weights but no training to continue; to start from them use --model.weights {path}"
            )
        check_fit(model.state_dict(), content["state_dict"], str(path), model.arch)
        self.position = (finished_epochs(content), content["global_step"])
        self.state = content["callbacks"][self.recorder.state_key] if own else {}
        # Another run's best values and speed are not this one's.
        self.recorder.continues = self.throughput.continues = own
        return path

    def _begin(
        self, trainer: Trainer, model: ImageClassifier, data: DataModule, wandb: Wandb, checkpoint: Path | None
    ) -> None:
        epoch, step = self.position
        self.csv.keep(self.state.get("rows", 0))
        write_atomically(self.run.directory / "config.yaml", self.config_text)
        # What counts is the checkpoint: a killed run's summary may be from before it.
        reached = {"epoch": epoch, "global_step": step, **{key: self.state.get(key, {}) for key in ("metrics", "best")}}
        self.run.start(_facts(self.config, model, data) | reached, world_size=trainer.world_size, step=step)
        mode = wandb.resolved_mode()
        self.wandb, mode = start_wandb(
            wandb, mode, self.run.directory, self.run.summary["run_id"], self._wandb_config()
        )
        if self.wandb:
            trainer.loggers = [*trainer.loggers, self.wandb]
        where = f"continues behind epoch {epoch}, at step {step}" if checkpoint else "a new run"
        print(f"{self.run.directory}: {where}")
        for line in describe(trainer, model, data, mode):
            print(line)
        sys.stdout.flush()

    def _leave_quietly(self, trainer: Trainer) -> None:
        """End a process that Lightning started well: it would kill the first one for a failure of this one.

        All processes stop at the same step for the same reason, and the first one reports it.
        """
        if not self.leads and isinstance(trainer.strategy.cluster_environment, LightningEnvironment):  # type: ignore[attr-defined]
            raise SystemExit(0)

    def _wandb_config(self) -> dict[str, Any]:
        facts = {name: self.run.summary[name] for name in ("parameters", "multiply_adds", "identity", "versions")}
        return {**self.config, **facts, "flops": 2 * facts["multiply_adds"], "segments": self.run.summary["segments"]}

    def _train(
        self, trainer: Trainer, model: ImageClassifier, data: DataModule, wandb: Wandb, checkpoint: Path | None
    ) -> None:
        status, exit_code = "failed", 1
        try:
            if self.leads:
                self._begin(trainer, model, data, wandb, checkpoint)
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            status, exit_code = "finished", 0
        except Stopped as stopped:
            status, exit_code = "preempted", int(str(stopped.code))
            if self.leads:
                step = self.run.summary.get("global_step", 0)
                again = f"reslightning fit --run_dir {self.run.directory}" if self.fresh else "the same command"
                bar = "\n" if sys.stdout.isatty() else ""  # the progress bar's line ends here
                print(f"{bar}stopped by {stopped.signal.name} at step {step}: {again} goes on from there", flush=True)
            self._leave_quietly(trainer)
            raise
        except (TrainingError, UserError):
            self._leave_quietly(trainer)
            raise
        finally:
            if self.leads and "status" in self.run.summary:
                self.run.update(status=status)
                if self.wandb:
                    self.wandb.finish(exit_code, _wandb_summary(self.run.summary))
        if self.leads:
            print("\n".join(result(self.run.summary)), flush=True)


def check(data: DataModule, trainer: Trainer) -> None:
    """Refuse what cannot be trained, before anything is written."""
    data.check_options()
    data.micro_batch_size(trainer.world_size, trainer.accumulate_grad_batches)
    if (trainer.max_epochs or 0) < 0:
        raise UserError(f"trainer.max_epochs={trainer.max_epochs} has no end; allowed: a number of epochs")
    prepare(data)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        data.check_evaluation("val", trainer.world_size)


def _facts(config: Mapping[str, Any], model: ImageClassifier, data: DataModule) -> dict[str, Any]:
    parameters, multiply_adds = _cost(model, data)
    return {
        "identity": identity(config),
        "command": shlex.join(["reslightning", *sys.argv[1:]]),
        "arch": model.arch,
        "shortcut": model.hparams["shortcut"],
        "version": model.hparams["version"],
        "dataset": type(data).__name__,
        "val_source": data.val_source,
        "n_samples": {split: data.n_samples(split) for split in ("train", "val", "test")},
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "epochs": config["trainer"]["max_epochs"],
        "seed": config["seed_everything"],
        "options": determining(config),
        "versions": versions(),
    }


def _cost(model: ImageClassifier, data: DataModule) -> tuple[int, int]:
    hparams = model.hparams
    return cost(
        model.arch,
        num_classes=model.num_classes,
        shortcut=hparams["shortcut"],
        version=hparams["version"],
        image_size=data.image_size,
    )


def describe(trainer: Trainer, model: ImageClassifier, data: DataModule, wandb_mode: str) -> list[str]:
    """Return lines that say what a training will do."""
    _, shortcut, version = resolve_options(model.arch, model.hparams["shortcut"], model.hparams["version"])
    parameters, multiply_adds = _cost(model, data)
    train, val = data.n_samples("train"), data.n_samples("val")
    accumulated = trainer.accumulate_grad_batches
    micro = data.micro_batch_size(trainer.world_size, accumulated)
    source = "the test set" if data.val_source == "test" else f"held out by seed {data.seed}"
    left_out = train % data.batch_size
    accumulation = f" x {accumulated} accumulated" if accumulated > 1 else ""
    lines = [
        f"  network    {model.arch}, shortcut {shortcut or 'none'}, {version}: {parameters:,} parameters, "
        f"{multiply_adds / 1e9:.3f} x 10^9 multiply-adds",
        f"  data       {type(data).__name__}: {train:,} training and {val:,} validation images ({source}), "
        f"{data.num_classes} classes",
        f"  batches    {data.batch_size} images a step = {trainer.world_size} x {micro}{accumulation}; "
        f"{data.steps_per_epoch} steps an epoch"
        + (f", {left_out} images left out (others each epoch)" if left_out else ""),
        f"  optimizer  {model.optim.name}, rate {model.optim.lr}, {model.schedule.name} schedule, "
        f"{trainer.max_epochs} epochs" + (f", weights averaged ({model.ema_decay})" if model.ema_decay else ""),
        f"  device     {trainer.world_size} x {type(trainer.accelerator).__name__.removesuffix('Accelerator')}, "
        f"precision {trainer.precision}",
        f"  W&B        {wandb_mode}",
    ]
    synced = trainer.world_size if syncs_batchnorm(trainer) else 1
    if micro * synced < SMALL_BATCH:
        advice = "--trainer.sync_batchnorm true" if trainer.world_size > 1 else "a larger --data.batch_size"
        lines.append(
            f"  warning: batch normalisation sees {micro * synced} images at a time, under {SMALL_BATCH}; "
            f"consider {advice}"
        )
    if resolve_options(model.arch, None, None)[0].stem == "imagenet" and data.image_size < SMALL_IMAGE:
        lines.append(
            f"  warning: {model.arch} is made for 224-pixel images and shrinks these {data.image_size} pixels "
            f"to {-(-data.image_size // 32)}; consider resnet18_cifar, 34 or 50"
        )
    return lines


def result(summary: Mapping[str, Any]) -> list[str]:
    """Return lines that say what came out of a finished run, from its summary alone."""
    seconds = timedelta(seconds=round(summary["seconds"]))
    lines = [f"finished: {summary['epoch']} epochs, {summary['global_step']} steps in {seconds}"]
    rows = [("last", summary["metrics"], f"epoch {summary['epoch']}")]
    if summary["best"]:
        shown = "the held-out best" if summary["val_source"] == "held-out" else "shown only: chosen on the test set"
        rows.append(("best", summary["best"], f"epoch {summary['best'].get('epoch', '?')}, {shown}"))
    lines.append(f"  {'':10} {'top-1 error':>12} {'top-5 error':>12}")
    for name, metrics, remark in rows:
        errors = [_percent(metrics.get(f"val/{top}")) for top in ("top1", "top5")]
        lines.append(f"  {name:10} {errors[0]:>12} {errors[1]:>12}   {remark}")
    known = published(summary["arch"], summary["dataset"], "center", summary.get("shortcut"), summary.get("version"))
    if known:
        top1, top5 = (f"{value:.2f} %" if value is not None else "" for value in (known.top1, known.top5))
        lines.append(f"  {'published':10} {top1:>12} {top5:>12}   on the test set, {known.source}")
    if summary.get("images_per_second"):
        lines.append(f"  {summary['images_per_second']:,.0f} images/s in training")
    return lines


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * (1 - accuracy):.2f} %"


def _wandb_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    last = {f"last/{name.removeprefix('val/')}": value for name, value in summary["metrics"].items() if "val/" in name}
    best = {f"best/{name.removeprefix('val/')}": value for name, value in summary["best"].items()}
    return {**last, **best, "status": summary["status"]}
