"""models: the architecture table; answers without torch."""

from __future__ import annotations

from jsonargparse.typing import PositiveInt

from reslightning.cli.parser import CommandParser
from reslightning.models.architectures import SHORTCUTS, cost, get_architecture, list_architectures, resolve_options
from reslightning.models.published import PUBLISHED, Published


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = CommandParser(
        prog="reslightning models",
        description="List the networks: layers, parameters, multiply-adds of one image (convolutions and final "
        "layer, as the paper counts) and published errors in percent.",
    )
    parser.add_argument("name", nargs="*", help="networks to show, also of other depths (resnet26); all by default")
    parser.add_argument("--shortcut", help=f"{', '.join(SHORTCUTS)} instead of the network's own")
    parser.add_argument("--version", help="v1, v1.5 or v2 instead of the network's own")
    parser.add_argument(
        "--num_classes", type=PositiveInt, metavar="N", help="outputs instead of the network's own number"
    )
    args = parser.parse_args(argv[1:])
    header = ("network", "layers", "shortcut", "version", "parameters", "multiply-adds", "input", "classes")
    rows = [header]
    for name in args.name or list_architectures():
        plain = get_architecture(name).shortcut is None
        shortcut = None if plain and not args.name else args.shortcut
        architecture, kind, version = resolve_options(name, shortcut, args.version)
        classes = args.num_classes or architecture.num_classes
        parameters, multiply_adds = cost(name, num_classes=classes, shortcut=shortcut, version=args.version)
        rows.append(
            (
                name,
                str(architecture.layers),
                kind or "none",
                version,
                f"{parameters:,}",
                f"{multiply_adds / 1e9:.3f}e9",
                f"{architecture.image_size}",
                f"{classes}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        aligned = zip(row, widths, (str.ljust, *[str.rjust] * 7), strict=True)
        print("  ".join(align(cell, width) for cell, width, align in aligned))
        for known in PUBLISHED:
            if known.arch == row[0]:
                print(f"    {_published(known)}")
    return 0


def _published(row: Published) -> str:
    errors = "/".join(f"{value:.2f}" for value in (row.top1, row.top5) if value is not None)
    network = [f"shortcut {row.shortcut}"] if row.shortcut else []
    return f"{errors:10}  {', '.join([row.dataset, row.protocol, *network])}  ({row.source})"
