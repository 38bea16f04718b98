"""models: the architecture table; answers without torch."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from reslightning.cli.parser import CommandParser
from reslightning.models.architectures import (
    ARCHITECTURES,
    SHORTCUTS,
    cost,
    get_architecture,
    list_architectures,
    resolve_options,
)
from reslightning.models.borrowed import BORROWED
from reslightning.models.published import PUBLISHED, Published

HEADER = ("network", "layers", "shortcut", "version", "parameters", "multiply-adds", "input", "classes")
# Of which there are published results alone, by their names in small letters.
OTHERS = {row.arch.lower(): row.arch for row in PUBLISHED if row.arch not in ARCHITECTURES}


def main(argv: list[str]) -> int:
    """Print the table, and what is published of others."""
    args = _parser().parse_args(argv[1:])
    networks = [name for name in args.name if name in ARCHITECTURES or name.lower() not in OTHERS]
    asked = {name.lower() for name in args.name} or OTHERS
    if networks or not args.name:
        _print_table([HEADER, *(_row(name, args) for name in networks or list_architectures())])
    if others := [name for key, name in OTHERS.items() if key in asked]:
        print("published, without a network here")
    for name in others:
        print(name)
        _print_published(name)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning models",
        description="List the networks: layers, parameters, multiply-adds of one image (convolutions and final "
        "layers, as the paper counts) and published errors in percent. "
        f"{', '.join(BORROWED)} are torchvision's, to be evaluated and not trained.",
    )
    parser.add_argument("name", nargs="*", help="networks to show, also of other depths (resnet26); all by default")
    parser.add_argument("--shortcut", help=f"{', '.join(SHORTCUTS)} instead of the network's own")
    parser.add_argument("--version", help="v1, v1.5 or v2 instead of the network's own")
    parser.add_argument("--norm", help="none instead of batch normalisation")
    parser.add_argument(
        "--num_classes", type=PositiveInt, metavar="N", help="outputs instead of the network's own number"
    )
    return parser


def _row(name: str, args: Namespace) -> tuple[str, ...]:
    """Return a network's row; of all that are listed, those without a choice that is asked for are as they are."""
    own = get_architecture(name)
    shortcut = args.shortcut if args.name or own.shortcut else None
    version = args.version if args.name or own.version else None
    norm = args.norm if args.name or own.version else None
    network = resolve_options(name, shortcut, version, norm)
    classes = args.num_classes or network.num_classes
    parameters, multiply_adds = cost(name, num_classes=classes, shortcut=shortcut, version=version, norm=norm)
    return (
        name,
        str(network.layers),
        network.shortcut or "none",
        network.version or "none",
        f"{parameters:,}",
        f"{multiply_adds / 1e9:.3f}e9",
        f"{network.image_size}",
        f"{classes}",
    )


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        aligned = zip(row, widths, (str.ljust, *[str.rjust] * 7), strict=True)
        print("  ".join(align(cell, width) for cell, width, align in aligned))
        if row[0] in BORROWED:
            print("    torchvision's, to be evaluated and not trained")
        _print_published(row[0])


def _print_published(arch: str) -> None:
    for row in PUBLISHED:
        if row.arch == arch:
            print(f"    {_published(row)}")


def _published(row: Published) -> str:
    top1, top5 = (value if value is None else f"{value:.2f}" for value in (row.top1, row.top5))
    errors = f"{top1 or '-'}/{top5}" if top5 else top1
    network = [f"shortcut {row.shortcut}"] if row.shortcut else []
    return f"{errors:11}  {', '.join([row.dataset, row.protocol, *network])}  ({row.source})"
