"""What validate and test do with weights, and where they write what came out."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from reslightning.data.base import DataModule, prepare
from reslightning.data.progress import finished_epochs
from reslightning.data.registry import Split
from reslightning.errors import UserError
from reslightning.evaluation.answers import SUFFIX, Answers, check_place
from reslightning.evaluation.certainty import wilson
from reslightning.evaluation.checks import check_held_out, check_range, check_use
from reslightning.evaluation.predict import Keeper
from reslightning.evaluation.protocol import OfPictures, Protocol
from reslightning.evaluation.protocols import as_trained
from reslightning.evaluation.recalibrate import recalibrate
from reslightning.files import printable, written
from reslightning.models.published import published
from reslightning.run.directory import Run
from reslightning.run.identity import differences
from reslightning.run.provenance import mixed_code, versions
from reslightning.run.summary import error_percent
from reslightning.train.classifier import ImageClassifier
from reslightning.train.messages import majority_error
from reslightning.train.metrics import calibration, class_accuracies, confused

# Where a split's images are from, if not from the part of its own name.
ORIGINS: dict[Split, str] = {
    "train": ", held out of its training part",
    "val": ", which are its validation images: it has no labelled test images",
    "test": ", which are its test images",
}


def evaluate(
    trainer: Trainer,
    model: ImageClassifier,
    data: DataModule,
    split: Split,
    *,
    protocols: Sequence[Protocol],
    weights: str,
    save: str | bool | None = None,
    images: int | None = None,
    content: Mapping[str, Any],
    run: Run | None,
    config: Mapping[str, Any],
    trained: Mapping[str, Any] | None,
) -> None:
    """Evaluate a split by each protocol, print the errors, and write them into the run's evaluations folder.

    Args:
        trainer: where it runs.
        model: the network with its weights.
        data: the data module.
        split: val or test.
        protocols: how; none means as training validates.
        weights: where the weights came from, for the record.
        save: the file for what the network says of every image, or true for one beside each evaluation's.
        images: how many training images batch statistics are averaged over; None leaves them as they are.
        content: the checkpoint's that they came from, if it is one.
        run: the run directory the weights belong to, if any.
        config: this command's configuration.
        trained: the configuration that the weights were trained with, if known.
    """
    keeper = _keeper(save, run, max(len(protocols), 1))
    trainer.callbacks += [keeper] if save else []  # type: ignore[attr-defined]
    make_ready(data, split, protocols, content, weights, trained if run else None)
    recalibrate(trainer, model, data, images)
    for protocol in protocols or [as_trained(model)]:
        protocol.begin(model, data)
        (trainer.validate if split == "val" else trainer.test)(model, datamodule=data, verbose=False)
        if trainer.is_global_zero:
            made = protocol.facts(data) | _facts(trainer, model, data, content, weights, images)
            found = {"split": split, **made, **_found(model, data, split)}
            _say(model, data, split, found, content)
            lines = say_differences(run, data, trained, config) if run else []
            with _saving(keeper.answers(data, split, made) if save else None, save, _place(run, found, lines)) as path:
                _record(run, found, lines, path)


@contextlib.contextmanager
def _saving(answers: Answers | None, save: str | bool | None, record: Path | None) -> Iterator[Path | None]:
    """Write answers, if there are any, together with the record that the block writes to its place, if there is one."""
    if not answers:
        yield record
        return
    path = Path(save).expanduser() if isinstance(save, str) else record.with_suffix(SUFFIX)  # type: ignore[union-attr]
    with answers.writing(path):
        yield record
    print(f"  every image's probabilities written to {path}")


def make_ready(
    data: DataModule,
    split: Split,
    protocols: Sequence[Protocol],
    content: Mapping[str, Any],
    weights: str,
    trained: Mapping[str, Any] | None,
) -> None:
    """Read the data, and make sure that it can be evaluated so; arguments as ``evaluate``'s.

    Raises:
        UserError: it has no such views, other classes or another normalisation, or images that the run trained on.
    """
    for asked in protocols:
        if isinstance(asked, OfPictures):
            asked.check(data)
    prepare(data)
    check_use(content, weights, data, split)
    if trained:
        check_held_out(data, split, trained)


def _keeper(save: str | bool | None, run: Run | None, evaluations: int) -> Keeper:
    """Return what keeps answers, once it is known that they have a place, before time is spent on them."""
    if not save:
        return Keeper()
    if isinstance(save, str):
        check_place(Path(save).expanduser())
        if evaluations > 1:
            raise UserError(
                f"--save {save} is one file for {evaluations} protocols\nGive one protocol, or --run_dir RUN and "
                "--save alone, which writes a file for each."
            )
    elif run is None:
        raise UserError(f"--save without --run_dir needs a place to write to: give --save FILE{SUFFIX}")
    else:
        check_place(run.evaluations / f"any{SUFFIX}")
    return Keeper()


def _place(run: Run | None, facts: Mapping[str, Any], lines: Sequence[str]) -> Path | None:
    if not run:
        return None
    statistics = f"-recalibrated-{facts['recalibrated']}" if facts["recalibrated"] else ""
    stem = file_name(facts["split"], facts["protocol"] + statistics, facts["images"], lines)
    return run.evaluations / f"{stem}.json"


def _record(run: Run | None, facts: Mapping[str, Any], lines: Sequence[str], path: Path | None) -> None:
    if not run or not path:
        return
    if mixed := mixed_code(run.summary):
        print(f"  {mixed}")
    record = {"format": 1, **facts, "differences": lines, "mixed_code": mixed}
    with written(path) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())
    print(f"  written to {path}")


def say_differences(
    run: Run, data: DataModule, trained: Mapping[str, Any] | None, config: Mapping[str, Any]
) -> list[str]:
    """Print and return a line for everything in which an evaluation is not on what its run was."""
    lines = [line.strip() for line in differences(trained, config)] if trained else []
    there = run.summary.get("fingerprint", {}).get("data")
    if there and there["digest"] != data.content()["digest"]:
        lines.append(f"data: other content, {there['digest']} there, {data.content()['digest']} given")
    for line in lines:
        print(f"  differs from the run: {line}")
    return lines


def file_name(split: str, what: str, images: Mapping[str, float], lines: Sequence[str]) -> str:
    """Return what an evaluation's file is called: what is partial or differs never takes the whole one's place.

    Args:
        split: val or test.
        what: the protocol, or what else it is of.
        images: how many were ``evaluated``, ``of`` how many.
        lines: in what it differs from its run.
    """
    partial = [f"{images['evaluated']:.0f}-of-{images['of']}"] if images["evaluated"] != images["of"] else []
    differs = [f"other-{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:6]}"] if lines else []
    return "-".join([split, what, *partial, *differs])


def _facts(
    trainer: Trainer,
    model: ImageClassifier,
    data: DataModule,
    content: Mapping[str, Any],
    weights: str,
    images: int | None,
) -> dict[str, Any]:
    return {
        "recalibrated": images,
        "checkpoint": weights,
        **_reached(content),
        "arch": model.arch,
        "dataset": type(data).__name__,
        "fingerprint": {"data": data.content()["digest"], "weights": model.weights_digest},
        "exif_orientation": data.upright,
        "world_size": trainer.world_size,
        "precision": trainer.precision,
        "versions": versions(),
    }


def _found(model: ImageClassifier, data: DataModule, split: Split) -> dict[str, Any]:
    metrics = {name: value for name, value in model.metrics.items() if name.startswith(f"{split}/")}
    check_range(metrics)
    names = [printable(name) for name in data.answers or data.class_names]
    images = model.confusion.sum(1).tolist()
    rows = zip(names, images, class_accuracies(model.confusion), strict=True)
    count = metrics[f"{split}/n_samples"]
    shares = {top: metrics.get(f"{split}/{top}") for top in ("top1", "top5")}
    return {
        "part": data.part(split),
        "images": {"evaluated": metrics[f"{split}/n_samples"], "of": data.n_samples(split)},
        "metrics": metrics,
        "intervals": {top: wilson(share * count, round(count)) for top, share in shares.items() if share is not None},
        "classes": {"evaluated": sum(count > 0 for count in images), "of": len(images)},
        "by_class": [{"class": name, "images": count, "top1": accuracy} for name, count, accuracy in rows],
        "calibration": calibration(model.bins),
        "confused": [
            {"class": names[label], "taken_for": names[guess], "images": count}
            for label, guess, count in confused(model.confusion)
        ],
    }


def _say(
    model: ImageClassifier, data: DataModule, split: Split, facts: Mapping[str, Any], content: Mapping[str, Any]
) -> None:
    protocol, metrics = facts["protocol"], facts["metrics"]
    images = metrics[f"{split}/n_samples"]
    part = "" if images == (whole := data.n_samples(split)) else f" of {whole:,}"
    origin = data.part(split)
    source = ORIGINS[origin] if origin != split else ""
    print(f"{type(data).__name__} {split}, {images:,}{part} images{source}, {protocol}; weights: {facts['checkpoint']}")
    if facts["recalibrated"]:
        print(f"  batch normalisation by the averages over {facts['recalibrated']:,} training images")
    if data.answers:
        found = len(data.labels(split).unique())
        print(f"  classes: {found} of the {len(data.answers)} that the weights know, among all of which they choose")
    for top, (low, high) in facts["intervals"].items():
        value = error_percent(metrics[f"{split}/{top}"])
        between = f"{error_percent(high):.2f} to {error_percent(low):.2f}"
        print(f"  top-{top[3:]} error {value:.2f} % ({between}){_beside(model, data, protocol, top)}")
    print(f"  in brackets Wilson's 95 % interval for {images:,} images; another seed of the training differs, too")
    if (error := majority_error(data.majority(split), data.num_classes)) is not None:
        print(f"  always the most frequent class: {error:.2f} %")
        print(f"  mean over the classes: {error_percent(metrics[f'{split}/balanced']):.2f} %")
    if content and "hyper_parameters" not in content:
        classes = ", ".join(list(data.class_names)[:3])
        print(f"  the file says nothing of its network: taken for {model.arch}, classes in the order {classes}, ...")
    print(f"  loss {metrics[f'{split}/loss']:.4f}, calibration error {100 * metrics[f'{split}/calibration']:.2f} %")


def _reached(content: Mapping[str, Any]) -> dict[str, int | None]:
    if "loops" not in content:
        return {"epoch": None, "global_step": None}
    return {"epoch": finished_epochs(dict(content)), "global_step": content["global_step"]}


def _beside(model: ImageClassifier, data: DataModule, protocol: str, top: str) -> str:
    options = (model.hparams[name] for name in ("shortcut", "version", "norm"))
    images = data.n_samples("test")
    known = published(model.arch, type(data).__name__, protocol, *options, images=images)
    value = getattr(known, top) if known else None
    return "" if known is None or value is None else f"   (published: {value:.2f} %, {known.source})"
