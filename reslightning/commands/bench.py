"""bench: the loader, training and evaluation, each against the plain way, measured in turn in one run."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from reslightning.cli.loading import loading
from reslightning.cli.parser import CommandParser
from reslightning.data.registry import DATA_SETS
from reslightning.errors import UserError
from reslightning.models.architectures import check_trainable, get_architecture

if TYPE_CHECKING:
    from reslightning.data.base import DataModule

WHAT = ("data", "train", "scale", "evaluate")  # each a module, bench_data say, with a function of its name
SYNTHETIC = "synthetic"  # beside the names of the registry
AGAINST = {
    "loop": "the same work in a bare loop",
    "compiled": "that loop, and fit, with torch.compile",
    "plain": "a hand-written loop in fp32 over torchvision's own loader",
}
# What is measured that looks at an option.
TRAINING = ("train", "scale")
FILE_SIZE = 224  # pixels
FILES, MEMORY, NOISE = "of image files", "of images in memory", "of synthetic images"
LOOKED_AT = {
    "batch_size": (*TRAINING, f"data {MEMORY}", "evaluate"),
    "arch": (*TRAINING, "evaluate"),
    "device": TRAINING,
    "size": ("evaluate", *(f"{what} {of}" for what in TRAINING for of in (FILES, NOISE)), f"data {FILES}"),
    "against": ("train",),
    "processes": ("scale",),
    **dict.fromkeys(("reference", "gpu_rate"), (f"data {FILES}",)),
}


def main(argv: list[str]) -> int:
    """Measure what was asked for."""
    parser = _parser()
    args = parser.parse_args(argv[1:])
    for name in ("rounds", "steps", "batch_size", "seconds", "size", "gpu_rate"):
        if args[name] is not None and not args[name] > 0:
            parser.error(f"--{name}={args[name]} is not allowed; it must be above zero")
    if args.what in TRAINING:
        check_trainable(args.arch)
    if args.data is None:
        args.data = _default_data(args)
    name = f"bench_{args.what}"
    with loading():
        from reslightning.commands.bench_synthetic import data_set

        measure = getattr(importlib.import_module(f"reslightning.commands.{name}"), name)
    _refuse_idle(args, parser.get_defaults(), data_set(args.data))
    if args.size is None and args.what not in TRAINING:
        args.size = FILE_SIZE
    try:
        measure(args)
    except UserError as error:
        raise UserError(_in_own_words(str(error))) from error
    return 0


def _in_own_words(message: str) -> str:
    """Return what a data set says of its options by the names that they have here."""
    message = message.replace("  (or --data.download true)", "")
    return re.sub(r"(?:--)?\bdata\.(root|batch_size|size)\b", r"--\1", message)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning bench",
        description="Images per second beside the plain way, measured in turn in one run.",
    )
    parser.add_argument(
        "what",
        choices=WHAT,
        help="data: the loader on one core against torchvision's data set with PIL transforms; train: fit's own step "
        "against bare loops, where its time goes, memory, and the share of the device's matrix products; scale: "
        "several processes that train together; evaluate: test by center and ten-crop against a hand-written loop",
    )
    parser.add_argument(
        "--data",
        choices=[*DATA_SETS, SYNTHETIC],
        help=f"of which; {SYNTHETIC} is noise, to train alone (default: CIFAR10, of scale and to train networks of "
        f"ImageNet's {SYNTHETIC})",
    )
    parser.add_argument("--root", help="where the data is (default: $RESLIGHTNING_DATA, else ./data)")
    parser.add_argument("--reference", help="data: what torchvision reads, the original files of a packed source")
    parser.add_argument(
        "--size", type=int, help="of files and noise: crops, in pixels (default: 224, to train the network's own)"
    )
    parser.add_argument(
        "--gpu_rate", type=float, default=2500, help="data: images/s that a GPU takes (ResNet-50, A100)"
    )
    parser.add_argument("--batch_size", type=int, default=128, help="images a step; scale: of each process")
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="how often each way is measured, in turn; from six on, medians have "
        "an interval of 95 %% confidence, and many rounds of few steps make it narrow",
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="data: length of one measurement")
    parser.add_argument("--steps", type=int, default=50, help="train, scale: measured steps of one measurement")
    parser.add_argument("--arch", default="resnet20", help="train, scale, evaluate: the network")
    parser.add_argument("--device", default="auto", help="train, scale: cpu, cuda, cuda:1, mps, or auto, the fastest")
    ways = "; ".join(f"{name}, {text}" for name, text in AGAINST.items())
    help_of_ways = f"train: what fit is measured beside (default: all): {ways}"
    parser.add_argument("--against", default=",".join(AGAINST), metavar="WAY,...", help=help_of_ways)
    parser.add_argument("--processes", default="1,2,4", metavar="N,...", help="scale: how many (default: 1,2,4)")
    return parser


def _default_data(args: Namespace) -> str:
    if args.what == "scale" or (args.what == "train" and get_architecture(args.arch).image_size != 32):
        return SYNTHETIC
    return "CIFAR10"


def _refuse_idle(args: Namespace, defaults: Namespace, kind: type[DataModule]) -> None:
    """Raise UserError for options that what is measured, on this kind of data, does not look at."""
    of = FILES if kind.reads_files else NOISE if args.data == SYNTHETIC else MEMORY
    if args.data == SYNTHETIC and args.what not in TRAINING:
        raise UserError(f"--data={SYNTHETIC} is nothing to bench {args.what}; allowed: {', '.join(DATA_SETS)}")
    if args.root and "root" in kind.unused:
        raise UserError(f"--root={args.root} is nothing to --data={args.data}, which needs no files\nLeave it out.")
    what = args.what if args.what == "evaluate" else f"{args.what} {of}"
    for name, having in LOOKED_AT.items():
        if not what.startswith(having) and args[name] != defaults[name]:
            where = " and ".join(f"bench {one}" for one in having)
            raise UserError(
                f"--{name}={args[name]} is nothing to bench {what}; it is an option of {where}\nLeave it out."
            )
