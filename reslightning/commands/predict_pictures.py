"""What predict does with pictures, once its options are known."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer

from reslightning.cli.configs import load_config
from reslightning.data.listing import Listing
from reslightning.errors import UserError
from reslightning.evaluation.outputs import Lines, Sheet, check_one_view, embeddings
from reslightning.evaluation.pictures import Pictures
from reslightning.evaluation.protocol import OfPictures, Protocol
from reslightning.evaluation.protocols import as_trained, choose
from reslightning.files import written
from reslightning.models.checkpoint import read_checkpoint
from reslightning.models.features import Features
from reslightning.run.directory import Run
from reslightning.run.record import weights_file
from reslightning.train.classifier import ImageClassifier
from reslightning.train.messages import say_precision
from reslightning.train.pretrained import from_weights, usual

NETWORK = ("arch", "shortcut", "version", "norm")
SIZES = ("image_size", "eval_resize", "eval_size", "interpolation")


def answer(args: Namespace, run: Run | None, weights: str, listing: Listing) -> int:
    """Print the answers, and return how many pictures could not be read.

    Args:
        args: the command's options.
        run: the run whose network is asked, if it is one's.
        weights: where its weights are.
        listing: the pictures.
    """
    model = _network(args, run, weights)
    data = _data(args, model, run, listing)
    protocol = _protocol(args, model, data)
    callbacks = _extras(args, model, data, protocol.name)
    protocol.begin(model, data)
    model.hparams["compile"] = False  # which would take longer than most pictures
    sizes = data.eval_sizes
    precision = args.trainer.precision or _precision(run)
    how = f"{sizes.resize} to {sizes.size} pixels, {protocol.label(data)}" + (f", in {precision}" if precision else "")
    print(f"{model.arch} from {weights}, {len(data.names):,} classes; {how}", file=sys.stderr, flush=True)
    with _output(args.output) as out:
        lines = Lines(data, args.format, min(args.top, len(data.names)), out, sys.stderr)
        trainer = _trainer(args, precision, [lines, *callbacks])
        say_precision(trainer)
        trainer.predict(model, datamodule=data, return_predictions=False)
    if args.output:
        print(f"answers written to {args.output}", file=sys.stderr)
    return lines.failed


def _trainer(args: Namespace, precision: Any, callbacks: list[Callback]) -> Trainer:
    try:
        return Trainer(
            accelerator=args.trainer.accelerator,
            devices=1,
            precision=precision,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
        )
    except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        given = f"trainer.accelerator={args.trainer.accelerator}, trainer.precision={precision}"
        raise UserError(f"the trainer does not take its options: {error}\ngiven: {given}") from error


def _network(args: Namespace, run: Run | None, weights: str) -> ImageClassifier:
    if run:
        for name in NETWORK:
            if args.model[name] is not None:
                raise UserError(f"--model.{name} {args.model[name]}: {run.directory} says its network\nLeave it out.")
        return ImageClassifier.restored(weights, read_checkpoint(Path(weights).expanduser()), run.directory)
    network = {name: args.model[name] for name in NETWORK}
    return from_weights(weights_file(weights), **network, say=lambda line: print(line, file=sys.stderr, flush=True))


def _data(args: Namespace, model: ImageClassifier, run: Run | None, listing: Listing) -> Pictures:
    """Return the pictures as the network was trained to see them, or as the command line says."""
    names = model.class_names or list(map(str, range(model.num_classes)))
    if model.image_size is None:  # an older checkpoint's
        model.having({name: usual(model.arch, model.num_classes)[0][name] for name in SIZES})
    if args.classes:
        names = _names(args.classes, model)
    known: dict[str, Any] = {
        "mean": None if model.mean is None else model.mean.tolist(),
        "std": None if model.std is None else model.std.tolist(),
        "eval_resize": model.eval_resize or model.image_size,
        "eval_size": model.eval_size or model.image_size,
        "eval_interpolation": model.interpolation,
        # Of images in memory no training says how files are turned.
        "exif_orientation": model.exif_orientation if model.eval_resize else True,
    }
    given = {name: value for name, value in vars(args.data).items() if value is not None}
    options = {name: value for name, value in known.items() if value is not None} | given
    options.setdefault("exif_orientation", not run)  # runs that do not say it are of before there was a choice
    return Pictures(listing, names, model.eval_resize is None, batch_size=int(args.batch_size), **options)


def _names(file: Path, model: ImageClassifier) -> list[str]:
    """Return the classes' names that a file gives, one a line."""
    try:
        names = [line.strip() for line in file.expanduser().read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"cannot read --classes {file}: {why}\nGive a text file with a class's name a line.") from error
    if len(names) != model.num_classes:
        raise UserError(
            f"--classes {file} names {len(names):,} classes, and the weights know {model.num_classes:,}\nGive a name "
            "for each, in their order. To train a final layer for other classes: reslightning fit --model.weights "
            "WEIGHTS --model.new_head true."
        )
    return names


def _protocol(args: Namespace, model: ImageClassifier, data: Pictures) -> Protocol:
    chosen = choose(args.protocol, args.average) or [as_trained(model)]
    if len(chosen) > 1:
        raise UserError(f"--protocol {args.protocol} names {len(chosen)}; allowed: one, as every picture gets one line")
    chosen[0].check_network(model.arch)
    if isinstance(chosen[0], OfPictures):
        chosen[0].check(data)
    return chosen[0]


def _extras(args: Namespace, model: ImageClassifier, data: Pictures, protocol: str) -> list[Callback]:
    """Return what makes the sheet and writes the vectors, where they are asked for."""
    callbacks: list[Callback] = []
    if args.sheet:
        check_one_view(model, "--sheet", protocol)
        features = Features(model.model)
        if not features.maps_classes:
            print(f"{model.arch} has several final layers, and so no class activation maps", file=sys.stderr)
        callbacks.append(Sheet(data, features, args.sheet.expanduser(), min(args.top, len(data.names))))
    if args.embeddings:
        callbacks.append(embeddings(model, args.embeddings, protocol))
    return callbacks


def _precision(run: Run | None) -> Any:
    return (load_config(run.config).get("trainer") or {}).get("precision") if run and run.config.is_file() else None


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Give standard output, or a file that is written whole or not at all."""
    if path is None:
        yield sys.stdout
        return
    with written(path.expanduser()) as file:
        text = io.TextIOWrapper(file, "utf-8", write_through=True)
        yield text
        text.detach()
