"""predict: what a network says of pictures; without any, of a test set's images."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from reslightning.cli.choice import check_output, find_weights
from reslightning.cli.configs import last_value, load_config
from reslightning.cli.parser import CommandParser
from reslightning.cli.showing import shows
from reslightning.commands import train
from reslightning.data.listing import Listing
from reslightning.errors import UserError
from reslightning.files import check_file, printable, written
from reslightning.run import layout
from reslightning.run.directory import Run

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

    from reslightning.evaluation.pictures import Pictures
    from reslightning.evaluation.protocol import Protocol
    from reslightning.train.classifier import ImageClassifier

TOP, AT_A_TIME = 3, 16
SIZES = ("image_size", "eval_resize", "eval_size", "interpolation")
DRAWN = (".png", ".jpg", ".jpeg")
HELP = ("-h", "--help")
OF_PICTURES = ("top", "format", "sheet", "classes", "batch_size")  # options that a test set's images have not


def main(argv: list[str]) -> int:
    """Print what a network says of pictures, or of a test set's images where none are given."""
    if not _pictures(argv[1:]) and not set(HELP) & set(argv):
        if alone := [f"--{name}" for name in OF_PICTURES if last_value(argv, name)]:
            raise UserError(f"{alone[0]} is of pictures, and none are given\nGive files, folders, tars or a list.")
        return train.main(argv)
    args = _parser().parse_args(argv[1:])
    run, weights = find_weights("predict", args.run_dir, args.ckpt_path, args.model.weights)
    _check(args)
    listing = Listing(args.pictures, getattr(sys.stdin, "buffer", None))  # which may be closed
    _check_apart(args, weights, listing)
    if sys.stderr.isatty():
        print("loading torch and Lightning", file=sys.stderr, flush=True)
    import lightning.pytorch  # noqa: F401 - it sets how loud it is when it is imported

    from reslightning.cli.quiet import quiet
    from reslightning.data.workers import end_workers

    try:
        with quiet():
            failed = _predict(args, run, weights, listing)
    finally:
        end_workers()
    if note := listing.note():
        print(note, file=sys.stderr)
    if failed:
        print(f"{failed:,} of {len(listing):,} pictures could not be read", file=sys.stderr)
    return 1 if failed else 0


def _pictures(words: Sequence[str]) -> list[str]:
    """Return what of a command line is no option and no option's value."""
    found, position = list[str](), 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return [*found, *words[position + 1 :]]
        if word.startswith("-") and word != "-":
            position += 1 if "=" in word or shows([word]) else 2
        else:
            found.append(word)
            position += 1
    return found


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning predict",
        description="Say what pictures show. Network, classes, normalisation and sizes are those of the run or of the "
        "weights. Without pictures: the probabilities of every test image as CSV, with the options of reslightning "
        "test, and --output FILE.csv and --embeddings FILE.npz.",
    )
    text = "pictures, folders, tars, lists (FILE.txt, a path a line), - for standard input: a picture, or a list"
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help=text)
    parser.add_argument("--run_dir", metavar="RUN", help="the run whose network is asked")
    parser.add_argument("--ckpt_path", metavar="FILE", help="best or last of the run, or another checkpoint")
    text = "in place of a run: torchvision:resnet50.IMAGENET1K_V2, hf:USER/NAME, or a file"
    parser.add_argument("--model.weights", metavar="WEIGHTS", help=text)
    parser.add_argument("--model.arch", metavar="NAME", help="the network, of weights that do not say it")
    parser.add_argument("--model.shortcut", metavar="A|B|C", help="the same")
    parser.add_argument("--model.version", metavar="v1|v1.5|v2", help="the same")
    parser.add_argument("--model.norm", metavar="batch|none", help="the same")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="the classes' names, a line each, in their order")
    parser.add_argument("--top", type=PositiveInt, default=TOP, metavar="N", help=f"classes a picture (default: {TOP})")
    kinds = Literal["table", "csv", "jsonl"]
    parser.add_argument("--format", type=kinds, default="table", help="of the answers (default: table)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where they go (default: the terminal)")
    text = "draw the pictures with answers, and over them what speaks for the first (class activation maps)"
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help=text)
    text = "write names and vectors of the last pooling"
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npz", help=text)
    text = "center, flip, ten-crop, dense or multi-scale (default: as in training)"
    parser.add_argument("--protocol", metavar="NAME", help=text)
    averages = Literal["probabilities", "logits"]
    text = "what of its views is averaged: probabilities (default) or logits"
    parser.add_argument("--average", type=averages | None, metavar="NAME", help=text)
    _add_sizes(parser)
    return parser


def _add_sizes(parser: CommandParser) -> None:
    """Add the options of how pictures are read, and where the network runs."""
    own = "(default: the network's own)"
    text = f"pixels that the shorter side is scaled to {own}"
    parser.add_argument("--data.eval_resize", type=PositiveInt | None, metavar="N", help=text)
    text = f"pixels of the middle that is looked at {own}"
    parser.add_argument("--data.eval_size", type=PositiveInt | None, metavar="N", help=text)
    text = f"bilinear or bicubic {own}"
    filters = Literal["bilinear", "bicubic"]
    parser.add_argument("--data.eval_interpolation", type=filters | None, metavar="NAME", help=text)
    parser.add_argument("--data.mean", type=list[float] | None, metavar="[R,G,B]", help=f"fractions of 255 {own}")
    parser.add_argument("--data.std", type=list[float] | None, metavar="[R,G,B]", help="the same")
    text = "turn pictures upright by their EXIF data (default: as in training)"
    parser.add_argument("--data.exif_orientation", type=bool | None, help=text)
    parser.add_argument("--data.num_workers", type=int | None, metavar="N", help="processes that read pictures")
    text = f"pictures in one pass (default: {AT_A_TIME})"
    parser.add_argument("--batch_size", type=PositiveInt, default=AT_A_TIME, metavar="N", help=text)
    parser.add_argument("--trainer.accelerator", default="auto", metavar="NAME", help="cpu, gpu, mps (default: auto)")
    text = "32-true, bf16-mixed, ... (default: the run's)"
    parser.add_argument("--trainer.precision", metavar="NAME", help=text)


def _check(args: Namespace) -> None:
    """Raise UserError where a run is taken for pictures, or what is asked for could not be written."""
    for place in args.pictures:
        with contextlib.suppress(OSError):  # no folder, whatever else it is
            if (Path(place) / layout.SUMMARY).is_file():
                raise UserError(f"{printable(place)} is a run, and no folder of pictures\nGive it as --run_dir.")
    for option in ("output", "sheet", "embeddings"):
        if (path := args[option]) is not None:
            check_output(str(path), f"--{option}")
            check_file(path.expanduser(), f"--{option}")
    if args.sheet and args.sheet.suffix.lower() not in DRAWN:
        raise UserError(f"--sheet {args.sheet} is no picture; allowed: {', '.join(DRAWN)}")


def _check_apart(args: Namespace, weights: str, listing: Listing) -> None:
    """Raise UserError where what is written would take the place of what is read, or of another that is written."""
    options = {f"--{name}": args[name].expanduser() for name in ("output", "sheet", "embeddings") if args[name]}
    there = {option: os.path.realpath(path) for option, path in options.items() if path.exists()}
    read = {weights, str(args.classes or ""), *args.pictures, *(listing.files() if there else ())}
    taken = {os.path.realpath(Path(place).expanduser()) for place in read if place} if there else set()
    for option, place in there.items():
        if place in taken and Path(place).is_file():
            raise UserError(f"{option} {options[option]} would replace what is read\nGive another file.")
    if len({os.path.realpath(path) for path in options.values()}) < len(options):
        raise UserError(f"{' and '.join(options)} name one file\nGive each its own.")


def _predict(args: Namespace, run: Run | None, weights: str, listing: Listing) -> int:
    """Print the answers, and return how many pictures could not be read."""
    from reslightning.evaluation.outputs import Lines

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
        trainer.predict(model, datamodule=data, return_predictions=False)
    if args.output:
        print(f"answers written to {args.output}", file=sys.stderr)
    return lines.failed


def _trainer(args: Namespace, precision: Any, callbacks: list[Callback]) -> Trainer:
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer

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
    from reslightning.models.checkpoint import read_checkpoint
    from reslightning.train.classifier import ImageClassifier
    from reslightning.train.pretrained import from_weights

    if run:
        for name in ("arch", "shortcut", "version", "norm"):
            if args.model[name] is not None:
                raise UserError(f"--model.{name} {args.model[name]}: {run.directory} says its network\nLeave it out.")
        return ImageClassifier.restored(weights, read_checkpoint(Path(weights).expanduser()), run.directory)
    if Path(weights).expanduser().is_dir():
        return ImageClassifier.from_run(weights)
    network = {name: args.model[name] for name in ("arch", "shortcut", "version", "norm")}
    return from_weights(weights, **network, say=lambda line: print(line, file=sys.stderr, flush=True))


def _data(args: Namespace, model: ImageClassifier, run: Run | None, listing: Listing) -> Pictures:
    """Return the pictures as the network was trained to see them, or as the command line says."""
    from reslightning.evaluation.pictures import Pictures
    from reslightning.train.pretrained import usual

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
    from reslightning.evaluation.protocol import OfPictures
    from reslightning.evaluation.protocols import as_trained, choose

    chosen = choose(args.protocol, args.average) or [as_trained(model)]
    if len(chosen) > 1:
        raise UserError(f"--protocol {args.protocol} names {len(chosen)}; allowed: one, as every picture gets one line")
    chosen[0].check_network(model.arch)
    if isinstance(chosen[0], OfPictures):
        chosen[0].check(data)
    return chosen[0]


def _extras(args: Namespace, model: ImageClassifier, data: Pictures, protocol: str) -> list[Callback]:
    """Return what makes the sheet and writes the vectors, where they are asked for."""
    from reslightning.evaluation.outputs import Sheet, check_one_view, embeddings
    from reslightning.models.features import Features

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
