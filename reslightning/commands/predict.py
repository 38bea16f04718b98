"""predict: what a network says of pictures; without any, of a test set's images."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from reslightning.cli.choice import check_output, find_weights
from reslightning.cli.configs import last_value
from reslightning.cli.loading import loading
from reslightning.cli.parser import CommandParser, add_network
from reslightning.cli.showing import shows
from reslightning.commands import train
from reslightning.errors import UserError
from reslightning.files import check_file, printable
from reslightning.run import layout

if TYPE_CHECKING:
    from reslightning.data.listing import Listing

TOP, AT_A_TIME = 3, 16
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
    from reslightning.data.listing import Listing

    listing = Listing(args.pictures, getattr(sys.stdin, "buffer", None))  # which may be closed
    _check_apart(args, weights, listing)
    with loading():
        from reslightning.cli.quiet import quiet
        from reslightning.commands.predict_pictures import answer
        from reslightning.data.workers import end_workers

    try:
        with quiet():  # once Lightning is there, which sets how loud it is
            failed = answer(args, run, weights, listing)
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
    add_network(parser)
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
