"""export: a trained network in files that other programs read, with a README.md that says how."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from reslightning.cli.parser import CommandParser, add_network
from reslightning.evaluation.formats import FORMATS, check_graphs, chosen
from reslightning.files import finite


def main(argv: list[str]) -> int:
    """Write the files, and print how well each agrees with the network."""
    args = _parser().parse_args(argv[1:])
    formats, to = chosen(args.format), args.to.expanduser()
    check_graphs(formats, normalise=args.normalise, softmax=args.softmax)
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        from reslightning.evaluation.export import check_place, export
        from reslightning.evaluation.trained import read_trained

        check_place(to, args.run)
        trained = read_trained(args.run, **vars(args.model))
        report = export(trained, to, formats, normalise=args.normalise, softmax=args.softmax)
    if args.json:
        print(json.dumps(finite(report), indent=2))
    else:
        _print(report, to)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning export",
        description="Write a trained network into a folder, in one format or several, with a README.md that says what "
        "it is and has three lines of code for each file. Every file is read back, and what it answers on pictures of "
        "the run's test set is compared with the network.",
    )
    text = "a run directory, a checkpoint, or other weights: torchvision:resnet50.IMAGENET1K_V2, hf:USER/NAME, a file"
    parser.add_argument("run", metavar="RUN", help=text)
    text = "the folder to write: a new or empty one, or that of an export of the same run, which is replaced"
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help=text)
    text = f"{', '.join(FORMATS)}; several with commas between them (default: safetensors)"
    parser.add_argument("--format", default="safetensors", metavar="NAME,...", help=text)
    text = "let onnx and torch.export take images in [0, 1] and normalise them"
    parser.add_argument("--normalise", action="store_true", help=text)
    text = "let onnx and torch.export answer with probabilities, not with logits"
    parser.add_argument("--softmax", action="store_true", help=text)
    add_network(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser


def _print(report: Mapping[str, Any], to: Path) -> None:
    network = report["hyper_parameters"]
    of = report["trained"]
    file = f" of {of['checkpoint']}" if "checkpoint" in of else ""
    classes = f"{network['num_classes']:,} classes"
    print(f"{network['arch']}{file}, {classes}, exported to {to}; compared on {report['pictures']}\n")
    for line in of.get("assumed", ()):
        print(f"{line}\n")
    rows = [
        (row["file"], f"{row['bytes']:,} bytes", f"{row['of']} differ by at most {row['difference']:.2g}")
        for row in report["files"]
    ]
    print(tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "right", "left")))
    print(f"\nhow to use them: {to / 'README.md'}")
