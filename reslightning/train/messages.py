"""What a training says at its start and at its end."""

from __future__ import annotations

import math
from datetime import timedelta

from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator

from reslightning.cluster.allocation import Allocation
from reslightning.data.base import DataModule
from reslightning.data.progress import syncs_batchnorm
from reslightning.models.architectures import cost, resolve_options
from reslightning.models.published import beside
from reslightning.run.provenance import mixed_code
from reslightning.run.summary import Summary, error_percent
from reslightning.train.classifier import ImageClassifier

SMALL_IMAGE = 64  # pixels under which ImageNet's stem leaves next to nothing
WAITED = 0.05  # share of the time that waiting for data may take
SMALL_BATCH = 16  # samples under which batch normalisation's statistics get noisy


def run_cost(model: ImageClassifier, data: DataModule) -> tuple[int, int]:
    """Return parameters, and multiply-adds for one image."""
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
    parameters, multiply_adds = run_cost(model, data)
    train, val = data.n_samples("train"), data.n_samples("val")
    accumulated = trainer.accumulate_grad_batches
    micro = data.micro_batch_size(trainer.world_size, accumulated)
    source = "the test set" if data.val_source == "test" else f"held out by seed {data.seed}"
    left_out = train % data.batch_size
    ema_decay = model.hparams["ema_decay"]
    accumulation = f" x {accumulated} accumulated" if accumulated > 1 else ""
    lines = [
        f"  network    {model.arch}, shortcut {shortcut or 'none'}, {version}: {parameters:,} parameters, "
        f"{multiply_adds / 1e9:.3f} x 10^9 multiply-adds",
        f"  data       {type(data).__name__}: {train:,} training and {val:,} validation images ({source}), "
        f"{data.num_classes} classes",
        f"  batches    {data.batch_size} images a step = {trainer.world_size} x {micro}{accumulation}; "
        f"{data.steps_per_epoch} steps an epoch"
        + (f", {left_out} images left out (others each epoch)" if left_out else ""),
        f"  optimizer  {model.optim.name}, rate {_rate(model, data)}, {model.schedule.name} schedule, "
        f"{trainer.max_epochs} epochs" + (f", weights averaged ({ema_decay})" if ema_decay else ""),
        f"  device     {trainer.world_size} x {type(trainer.accelerator).__name__.removesuffix('Accelerator')}, "
        f"precision {trainer.precision}",
        f"  W&B        {wandb_mode}",
    ]
    allocated = Allocation.here()
    if allocated and allocated.gpus and isinstance(trainer.accelerator, CPUAccelerator):
        lines.append(
            f"  warning: {allocated.gpus} GPUs are allocated on this node, but training runs on CPUs; "
            "see reslightning doctor --full"
        )
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


def _rate(model: ImageClassifier, data: DataModule) -> str:
    optim = model.optim
    scaled = f" = {optim.lr} x {data.batch_size} / {optim.lr_batch}" if optim.lr_batch else ""
    return f"{optim.peak(data.batch_size):g}{scaled}"


def verdict(waited: float | None, workers: int, cpus: int) -> str:
    """Return what a training that reads files says of its loader, in a line.

    Args:
        waited: the share of training's time that was spent waiting for data; None where not measured.
        workers: loader workers of each process.
        cpus: CPUs that each process may use.
    """
    if waited is None:
        return "data       too few steps to tell how long they waited"
    text = f"{100 * waited:.0f} % of the time was spent waiting for data"
    if waited <= WAITED:
        return f"data       not loader-bound: {text}"
    # What loads now at the pace of everything, or one by one in the training process, must come in step.
    needed = math.ceil(workers / (1 - waited) if workers else waited / (1 - waited))
    advice = f"{needed} workers would do (data.num_workers, now {workers})"
    if needed > cpus:
        advice += f", but this process has {cpus} CPUs: ask for more, or `reslightning pack --max-side 400`"
    return f"data       loader-bound: {text}; {advice}"


def result(summary: Summary) -> list[str]:
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
    if known := beside(summary):
        top1, top5 = (f"{value:.2f} %" if value is not None else "" for value in (known.top1, known.top5))
        lines.append(f"  {'published':10} {top1:>12} {top5:>12}   on the test set, {known.source}")
    if summary.get("images_per_second"):
        lines.append(f"  {summary['images_per_second']:,.0f} images/s in training")
    if mixed := mixed_code(summary):
        lines.append(f"  {mixed}")
    return lines


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{error_percent(accuracy):.2f} %"
