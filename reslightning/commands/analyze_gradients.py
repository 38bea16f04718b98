"""analyze gradients: how the loss's gradient flows through the blocks of networks at their start, or of a run's."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tabulate import tabulate

from reslightning.analysis.findings import FINDINGS, Finding, write_findings
from reslightning.analysis.gradient_findings import FLAT, RULE, Ratios, findings
from reslightning.cli.parser import CommandParser
from reslightning.commands.analyze import check_blocks, check_run, chosen_data, drawn, results_folder
from reslightning.data.registry import DATA_SETS
from reslightning.errors import UserError
from reslightning.files import finite, written
from reslightning.models.architectures import get_architecture, resolve_options

if TYPE_CHECKING:
    from torch import nn

    from reslightning.analysis.gradient_figures import Measured
    from reslightning.analysis.gradient_flow import Flow
    from reslightning.data.base import DataModule

ARCHS = "plain56,resnet56"
IMAGES = 32
NUMBERS, CURVES = "gradient-flow.csv", "gradient-flow.png"
NETWORK = ("shortcut", "version", "norm")
HEADS = ("block", "shortcut", "|dL/dz|", "|dL/dx|", "by shortcut", "by residual", "cosine", "|dL/dw|")


def main(argv: list[str]) -> int:
    """Print tables, and write curves and numbers if asked."""
    args = _parser().parse_args(argv[1:])
    _check(args)
    run = args.run_dir.expanduser() if args.run_dir else None
    data = chosen_data(run, args.data, args.root, None if args.seed_everything is None else int(args.seed_everything))
    measured, ratios = _measured(args, data)
    found = findings(ratios)
    of = f"{args.batch_size} training images of {type(data).__name__}"
    if args.to:
        _write(measured, args.to.expanduser(), f"{of}, in training mode")
        write_findings(args.to.expanduser(), RULE, found)
    if args.json:
        print(json.dumps(finite(_document(measured, found, of)), indent=2))
        return 0
    print(f"gradients of the mean cross-entropy of {of}, in training mode and float64; |.| is a Euclidean norm")
    for one in measured:
        _print(one)
    if args.seeds > 1:
        print("\n" + "\n".join(map(str, found)))
    print(f"\ncurves and numbers written to {args.to}" if args.to else "\n--to DIR draws curves over depth")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning analyze gradients",
        description="Measure the loss's gradient at every block, z = F(x) + s(x) in front of its rectifier: dL/dz, and "
        "dL/dx with its parts by the shortcut s and by the residual F; and how alike gradients at neighbouring inputs "
        "are (arXiv:1702.08591). Of networks at their start, or of a run's.",
    )
    text = f"networks, several with commas (default: {ARCHS})"
    parser.add_argument("--model.arch", metavar="A,B", help=text)
    parser.add_argument("--model.shortcut", metavar="A|B|C", help="of those that have shortcuts")
    parser.add_argument("--model.version", metavar="v1|v1.5|v2", help="of all of them")
    text = "none is without batch normalisation: residual networks by Fixup's start and by He's, plain ones by He's"
    parser.add_argument("--model.norm", metavar="batch|none", help=text)
    parser.add_argument("--run_dir", type=Path, metavar="RUN", help="a run, in place of networks at their start")
    text = "whose training images (default: the run's, else Digits)"
    parser.add_argument("--data", choices=[*DATA_SETS], help=text)
    parser.add_argument("--root", metavar="DIR", help="where the data is (default: as the run has it, or ./data)")
    parser.add_argument(
        "--batch_size", type=PositiveInt, default=IMAGES, metavar="N", help=f"how many (default: {IMAGES})"
    )
    text = "of the start, and of which images (default: the run's, else 0)"
    parser.add_argument("--seed_everything", type=NonNegativeInt, metavar="N", help=text)
    text = "start each network by so many seeds, of which the first is in tables and figure (default: 1)"
    parser.add_argument("--seeds", type=PositiveInt, default=1, metavar="N", help=text)
    text = f"folder for curves over depth, {CURVES}, and numbers, {NUMBERS}"
    parser.add_argument("--to", type=Path, metavar="DIR", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser


def _check(args: Namespace) -> None:
    """Raise UserError for what cannot be measured or written, before time is spent."""
    results_folder(args.to, NUMBERS, CURVES, FINDINGS)
    if args.run_dir:
        given = [name for name in ("arch", *NETWORK) if args.model[name] is not None]
        if given:
            raise UserError(f"--run_dir says which network it is\nLeave out --model.{given[0]}, or --run_dir.")
        if args.seeds > 1:
            raise UserError(f"--run_dir is of one start\nLeave out --seeds {args.seeds}, or --run_dir.")
        check_run(args.run_dir.expanduser())
        return
    for arch in _archs(args):
        check_blocks(arch, resolve_options(arch, **_options(args, arch)))


def _archs(args: Namespace) -> list[str]:
    return [name.strip() for name in (args.model.arch or ARCHS).split(",")]


def _options(args: Namespace, arch: str) -> dict[str, str | None]:
    """Return what a network is asked to be: of several, a shortcut is asked of those that have some."""
    given = {name: args.model[name] for name in NETWORK}
    own = {name: get_architecture(name).shortcut for name in _archs(args)}
    if own[arch] is None and any(own.values()):
        given["shortcut"] = None
    return given


def _measured(args: Namespace, data: DataModule) -> tuple[list[Measured], list[Ratios]]:
    """Return what the first seed gives, and of all how large the gradients are at the ends."""
    from reslightning.analysis.gradient_figures import Measured
    from reslightning.analysis.gradient_flow import measure, shattering
    from reslightning.train.metrics import check_labels

    count = int(args.batch_size)  # the parser's kind of int is no plain value
    images, labels = next(drawn(data, "train", count, count, "--batch_size").batches)
    first: dict[str, Measured] = {}
    ratios: dict[str, list[float | None]] = {}
    for seed in range(int(args.seeds)):
        for label, network, classes in _networks(args, data.num_classes, seed + int(args.seed_everything or 0)):
            check_labels(int(labels.min()), int(labels.max()), classes)
            one = Measured(label, measure(network, images, labels, label), {} if seed else shattering(network, images))
            first.setdefault(label, one)
            ratios.setdefault(label, []).append(one.ratio)
    flowing = {label: [value for value in values if value] for label, values in ratios.items() if all(values)}
    return [*first.values()], [
        Ratios(label, first[label].flows[0].shortcut == "none", len(first[label].flows), values)
        for label, values in flowing.items()
    ]


def _networks(args: Namespace, classes: int, seed: int) -> Iterator[tuple[str, nn.Module, int]]:
    """Give each network with what it is called and how many classes it knows."""
    import torch

    from reslightning.models.normalization import he_start
    from reslightning.models.resnet import build_model
    from reslightning.train.classifier import ImageClassifier

    if args.run_dir:
        model = ImageClassifier.from_run(args.run_dir)
        yield f"{model.arch} of {args.run_dir}", model.model, model.num_classes
        return
    for arch in _archs(args):
        options = _options(args, arch)
        torch.manual_seed(seed)
        network: Any = build_model(arch, num_classes=classes, **options)  # type: ignore[arg-type]
        said = ", ".join([arch, *(value for value in options.values() if value and value != "none")])
        if options["norm"] != "none":
            yield said, network, classes
            continue
        if resolve_options(arch, **options).shortcut:
            network.fc.reset_parameters()  # which Fixup starts at zero, and no gradient would come through
            yield f"{said}, no norm, Fixup's start but for the final layer's", network, classes
            he_start(network)
        yield f"{said}, no norm, He's start", network, classes


def _print(one: Measured) -> None:
    count = len(one.flows)
    shown = sorted({0, count // 2, count - 1})
    print(f"\n{one.label}: {count} block{'s' * (count > 1)}")
    rows = [_row(one.flows[number]) for number in shown]
    print(tabulate(rows, HEADS, disable_numparse=True, colalign=("left", "left", *["right"] * 6)))
    print(f"  {_said(one)}")
    first, *_, last = [*one.correlations.items()] * 2
    print(
        f"  correlation of gradients at neighbouring inputs: {first[1]:.2f} behind block {first[0]}, {last[1]:.2f} "
        f"behind block {last[0]}"
    )


def _row(flow: Flow) -> list[str]:
    norms = (flow.dz, flow.dx, flow.shortcut_part, flow.residual_part)
    return [flow.block, flow.shortcut, *map(_number, norms), _number(flow.cosine, "+.3f"), _number(flow.parameters)]


def _number(value: float, style: str = ".2e") -> str:
    return f"{value:{style}}" if value == value else ""


def _said(one: Measured) -> str:
    """Return what becomes of the gradient on its way from the last block to the first, in words."""
    if one.ratio is None:
        return "no gradient comes to the last block"
    way = "grows" if one.ratio > FLAT else "shrinks" if one.ratio < 1 / FLAT else "keeps its size"
    return f"|dL/dz| at the first block is {one.ratio:.3g} times that at the last: backwards it {way}"


def _document(measured: Sequence[Measured], found: Sequence[Finding], of: str) -> dict[str, Any]:
    networks = [
        {
            "network": one.label,
            "ratio": one.ratio,
            "blocks": [flow._asdict() for flow in one.flows],
            "correlations": one.correlations,
        }
        for one in measured
    ]
    return {"format": 1, "of": of, "networks": networks, "findings": [one._asdict() for one in found]}


def _write(measured: Sequence[Measured], folder: Path, title: str) -> None:
    """Write curves and numbers."""
    from reslightning.analysis.gradient_figures import draw_curves
    from reslightning.analysis.gradient_flow import Flow, cells
    from reslightning.compare.figures import write_figure

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "number", *Flow._fields, "correlation"])
    for one in measured:
        for number, flow in enumerate(one.flows, start=1):
            writer.writerow([one.label, number, *cells(flow), one.correlations.get(number, "")])
    with written(folder / NUMBERS) as file:
        file.write(text.getvalue().encode())
    write_figure(draw_curves(measured, title), folder / CURVES)
