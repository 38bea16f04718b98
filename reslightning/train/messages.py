"""What a training says at its start and at its end."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator

from reslightning.cluster.allocation import Allocation
from reslightning.data.base import DataModule
from reslightning.data.progress import batches_per_epoch, syncs_batchnorm
from reslightning.models.architectures import Architecture, cost, resolve_options
from reslightning.models.published import beside
from reslightning.run.provenance import mixed_code
from reslightning.run.summary import Summary, error_percent, validated_on
from reslightning.train.classifier import ImageClassifier
from reslightning.train.hardware import emulated

SMALL_IMAGE = 64  # pixels under which ImageNet's stem leaves next to nothing
WAITED = 0.05  # share of the time that waiting for data may take
SMALL_BATCH = 16  # samples under which batch normalisation's statistics get noisy
INDENT = 13 * " "  # of what stands behind a line's name
UNEVEN = 0.05  # more of all images than its even share makes a class worth naming


def wrapped(lines: Sequence[str]) -> str:
    """Return lines as one text; in a terminal none is cut within a word, and the rest stands under its beginning."""
    if not sys.stdout.isatty():
        return "\n".join(lines)
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)
        for line in lines
    )


def run_cost(model: ImageClassifier, data: DataModule) -> tuple[int, int]:
    """Return parameters, and multiply-adds for one image."""
    hparams = model.hparams
    return cost(
        model.arch,
        num_classes=model.num_classes,
        shortcut=hparams["shortcut"],
        version=hparams["version"],
        norm=hparams["norm"],
        image_size=data.image_size,
    )


def describe(trainer: Trainer, model: ImageClassifier, data: DataModule, wandb_mode: str) -> list[str]:
    """Return lines that say what a training will do."""
    network = _network(model)
    train, val = data.n_samples("train"), data.n_samples("val")
    micro = data.micro_batch_size(trainer.world_size, accumulated := trainer.accumulate_grad_batches)
    part = data.part("val")
    seen = f"held out by seed {data.seed}" if part == "train" else validated_on(data.val_source, part)
    batches = batches_per_epoch(trainer, data.steps_per_epoch * accumulated)
    left_out = train - batches * micro * trainer.world_size
    accumulation = f" x {accumulated} accumulated" if accumulated > 1 else ""
    warmed = ", warmed up" if model.hparams["ema_warmup"] else ""
    lines = [
        _described(network, model, data),
        f"  data       {type(data).__name__}: {train:,} training and {val:,} validation images ({seen}), "
        f"{data.num_classes} classes",
        f"  batches    {data.batch_size} images a step = {trainer.world_size} x {micro}{accumulation}; "
        f"{math.ceil(batches / accumulated)} steps an epoch"
        + (f", {left_out:,} images left out (others each epoch)" if left_out else ""),
        *_growth(data, model.hparams["compile"]),
        f"  optimizer  {model.optim.name}, rate {_rate(model, data)}, {model.schedule.name} schedule, "
        f"{trainer.max_epochs} epochs"
        + (f", weights averaged ({decay}{warmed})" if (decay := model.hparams["ema_decay"]) else ""),
        f"  device     {trainer.world_size} x {_device(trainer)}, precision {trainer.precision}",
        f"  W&B        {wandb_mode}",
    ]
    return lines + [f"  warning: {warning}" for warning in _warnings(trainer, model, data)]


def _warnings(trainer: Trainer, model: ImageClassifier, data: DataModule) -> Iterator[str]:
    """Yield what a training could do better on this machine, or with these images."""
    network, allocated = _network(model), Allocation.here()
    micro = data.micro_batch_size(trainer.world_size, trainer.accumulate_grad_batches)
    if allocated and allocated.gpus and isinstance(trainer.accelerator, CPUAccelerator):
        yield (
            f"{allocated.gpus} GPUs are allocated on this node, but training runs on CPUs; see reslightning doctor "
            "--full"
        )
    if cost := _precision(trainer):
        yield cost
    synced = trainer.world_size if syncs_batchnorm(trainer) else 1
    if micro * synced < SMALL_BATCH and network.norm == "batch":
        advice = "--trainer.sync_batchnorm true" if trainer.world_size > 1 else "a larger --data.batch_size"
        yield f"batch normalisation sees {micro * synced} images at a time, under {SMALL_BATCH}; consider {advice}"
    size, trial = data.size_at((trainer.max_epochs or 1) - 1), trainer.fast_dev_run  # type: ignore[attr-defined]
    if size < data.full_size and not trial:
        yield (
            f"training ends at {size} pixels, before its images have grown: networks err less on sizes that they were "
            f"trained on; consider --data.grow_epochs within {trainer.max_epochs} epochs"
        )
    if network.stem == "imagenet" and data.image_size < SMALL_IMAGE:
        yield (
            f"{model.arch} is made for 224-pixel images and shrinks these {data.image_size} pixels to "
            f"{-(-data.image_size // 32)}; consider resnet18_cifar, 34 or 50"
        )


def say_precision(trainer: Trainer) -> None:
    """Say on stderr what a precision costs that the device only emulates, for what is not ``describe``d."""
    if trainer.is_global_zero and (cost := _precision(trainer)):
        print(f"warning: {cost}", file=sys.stderr, flush=True)


def _precision(trainer: Trainer) -> str | None:
    cost = emulated(str(trainer.precision), trainer.strategy.root_device.type)
    return cost and f"precision {trainer.precision}: {cost}"


def _growth(data: DataModule, compiled: bool) -> list[str]:
    """Return a line on the sizes of training images that grow; epochs are counted from 1, as in the rows."""
    if data.grow_epochs is None:
        return []
    last, first = (epoch + 1 for epoch in data.grow_epochs)
    return [
        f"  sizes      training images of {data.first_size} pixels up to epoch {last}, of {data.full_size} from epoch "
        f"{first} on; evaluated, and multiply-adds counted, at {data.image_size}"
        + (f"; compiled for each of {len(data.training_sizes)} sizes" if compiled else "")
    ]


def _network(model: ImageClassifier) -> Architecture:
    network = resolve_options(model.arch, *(model.hparams[name] for name in ("shortcut", "version", "norm")))
    assert isinstance(network, Architecture)  # others are not trained
    return network


def _device(trainer: Trainer) -> str:
    """Return what kind of device trains; sums over a CPU's threads round by their number, and results go by it."""
    kind = type(trainer.accelerator).__name__.removesuffix("Accelerator")
    threads = torch.get_num_threads()
    return f"{kind} of {threads} thread{'s' * (threads > 1)}" if kind == "CPU" else kind


def _described(network: Architecture, model: ImageClassifier, data: DataModule) -> str:
    parameters, multiply_adds = run_cost(model, data)
    norm = "" if network.norm == "batch" else ", no batch normalisation"
    norm += ", blocks computed again" if model.hparams["activation_checkpointing"] else ""
    return (
        f"  network    {model.arch}, shortcut {network.shortcut or 'none'}, {network.version}{norm}: {parameters:,} "
        f"parameters, {multiply_adds / 1e9:.3f} x 10^9 multiply-adds"
    )


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
    if summary.get("stopped"):
        lines.append(f"  stopped early, behind {summary['epoch']} of {summary['epochs']} epochs: {summary['stopped']}")
    rows = [("last", summary["metrics"], f"epoch {summary['epoch']}")]
    if summary["best"]:
        held_out = summary["val_source"] == "held-out"
        images = validated_on(summary["val_source"], summary.get("val_part"))
        shown = f"chosen on {images}" if held_out else f"shown only: chosen on {images}"
        rows.append(("best", summary["best"], f"epoch {summary['best'].get('epoch', '?')}, {shown}"))
    lines.append(f"  {'':10} {'top-1 error':>12} {'top-5 error':>12}")
    for name, metrics, remark in rows:
        errors = [_percent(metrics.get(f"val/{top}")) for top in ("top1", "top5")]
        lines.append(f"  {name:10} {errors[0]:>12} {errors[1]:>12}   {remark}")
    if known := beside(summary):
        top1, top5 = (f"{value:.2f} %" if value is not None else "" for value in (known.top1, known.top5))
        lines.append(f"  {'published':10} {top1:>12} {top5:>12}   {known.source}")
    if (error := majority_error(summary.get("majority", {}).get("val"), summary.get("classes"))) is not None:
        lines.append(f"  {'majority':10} {f'{error:.2f} %':>12} {'':>12}   by always guessing the most frequent class")
    lines += _untrained(summary)
    if summary.get("images_per_second"):
        lines.append(f"  {summary['images_per_second']:,.0f} images/s in training")
    if mixed := mixed_code(summary):
        lines.append(f"  {mixed}")
    return lines


def majority_error(share: float | None, classes: int | None) -> float | None:
    """Return the error in percent of always guessing the most frequent class; None where classes are about even.

    Args:
        share: of all images, the most frequent class's; None where not known.
        classes: how many there are.
    """
    even = share is None or not classes or share - 1 / classes < UNEVEN
    return None if share is None or even else error_percent(share)


def _untrained(summary: Summary) -> list[str]:
    """Return what to say of a training that ended about where guessing is, and what to try."""
    top1, classes = summary["metrics"].get("train/top1"), summary.get("classes")
    if top1 is None or not classes:
        return []
    chance = summary.get("majority", {}).get("train", 1 / classes)
    if top1 >= min(3 * chance, chance + (1 - chance) / 4):
        return []
    rate = (summary.get("options") or {}).get("model.optim.lr", "?")
    return [
        f"  it did not train: its training error, {_percent(top1)}, is near the {_percent(chance)} of guessing",
        f"  Try a lower model.optim.lr ({rate} now), model.schedule.warmup, trainer.gradient_clip_val 1, more epochs "
        "or a shallower network; and see whether the labels are right.",
    ]


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{error_percent(accuracy):.2f} %"
