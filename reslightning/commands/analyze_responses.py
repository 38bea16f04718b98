"""analyze responses: how strongly the 3x3 layers of trained networks respond, with and without shortcuts."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from tabulate import tabulate

from reslightning.analysis.response_figures import Responding, draw_responses
from reslightning.cli.parser import CommandParser
from reslightning.commands.analyze import check_trained, chosen_data, drawn, results_folder
from reslightning.compare.figures import write_figure
from reslightning.data.registry import DATA_SETS
from reslightning.files import finite, written
from reslightning.models.architectures import resolve_options

if TYPE_CHECKING:
    from reslightning.train.classifier import ImageClassifier

BATCH = 128
SEED = 0  # of the images, which are the same for all runs
NUMBERS, CURVES = "responses.csv", "responses.png"
WHAT = "standard deviations of the 3x3 layers' responses, behind batch normalisation and in front of the nonlinearity"
BEFORE = "normalises in front of convolutions (v2): its responses are the convolutions' outputs, and not compared"


def main(argv: list[str]) -> int:
    """Print a table and what comes out, and write curves and numbers if asked."""
    args = _parser().parse_args(argv[1:])
    runs = [run.expanduser() for run in args.run_dir]
    archs = [check_trained(run) for run in runs]
    to = results_folder(args.to, NUMBERS, CURVES)
    labels = [arch if archs.count(arch) == 1 else f"{arch} of {run}" for arch, run in zip(archs, runs, strict=True)]
    networks = list(_measured(args, runs, labels))
    if to:
        _write(networks, to)
    if args.json:
        print(json.dumps(finite(_document(networks)), indent=2))
        return 0
    print(f"{WHAT}, in evaluation mode")
    rows = [
        (one.label, one.of, len(one.layers), one.mean, max(one.deviations), min(one.deviations)) for one in networks
    ]
    print(tabulate(rows, ("network", "of", "layers", "mean", "largest", "smallest"), floatfmt=".3f"))
    for line in findings(networks):
        print(f"  {line}")
    print(f"\ncurves and numbers written to {to}" if to else "\n--to DIR draws curves by layer, and by size")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning analyze responses",
        description="Measure the standard deviation of what every 3x3 convolution of trained networks gives, behind "
        "batch normalisation and in front of the nonlinearity, over test images, places and channels "
        "(arXiv:1512.03385, Figure 7). Of pre-activation networks (v2), which normalise in front of convolutions, it "
        "is the convolutions' output.",
    )
    parser.add_argument("--run_dir", type=Path, nargs="+", required=True, metavar="RUN", help="runs, a curve for each")
    parser.add_argument("--data", choices=[*DATA_SETS], help="whose test images (default: each run's own)")
    parser.add_argument("--root", metavar="DIR", help="where the data is (default: as the run has it, or ./data)")
    text = "how many, drawn at random, the same for all runs (default: all)"
    parser.add_argument("--images", type=PositiveInt, metavar="N", help=text)
    text = f"folder for curves by layer and by size, {CURVES}, and numbers, {NUMBERS}"
    parser.add_argument("--to", type=Path, metavar="DIR", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser


def _measured(args: Namespace, runs: Sequence[Path], labels: Sequence[str]) -> Iterator[Responding]:
    import torch

    from reslightning.analysis.responses import responses
    from reslightning.train.classifier import ImageClassifier

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    asked = None if args.images is None else int(args.images)  # the parser's kind of int is no plain value
    # Which images there are is seen of all runs before the first is measured.
    prepared = [drawn(chosen_data(run, args.data, args.root, SEED), "test", asked, BATCH, "--images") for run in runs]
    models = [ImageClassifier.from_run(run) for run in runs]
    for run, label, model, there in zip(runs, labels, models, prepared, strict=True):
        found = responses(model.model.to(device), (images for images, _ in there.batches), label)
        yield _responding(run, label, model, f"{there.images:,} {there.of}", found)


def _responding(run: Path, label: str, model: ImageClassifier, of: str, found: Any) -> Responding:
    options = (model.hparams[name] for name in ("shortcut", "version", "norm"))
    network: Any = resolve_options(model.arch, *options)
    return Responding(label, model.arch, str(run), bool(network.shortcut), network.version, network.layers, of, found)


def findings(networks: Sequence[Responding]) -> list[str]:
    """Return in words whether residual networks respond weaker than plain ones, and deeper ones weaker still.

    Networks of one kind are compared by the mean over them, on the same images.
    """
    lines = [f"{one.label} {BEFORE}" for one in networks if one.version == "v2"]
    alike: dict[tuple[str, bool, int], list[Responding]] = {}
    for one in networks:
        if one.version != "v2":
            alike.setdefault((one.of, one.is_residual, one.depth), []).append(one)
    means = {key: fmean(one.mean for one in members) for key, members in alike.items()}
    for (of, is_residual, depth), mean in means.items():
        if is_residual and (plain := means.get((of, False, depth))):
            lines.append(
                f"{depth} layers: the residual network's mean response is {mean / plain:.2f} times the plain one's, "
                f"{_paper(mean < plain, 'weaker')}"
            )
    for of in dict.fromkeys(of for of, *_ in means):
        depths = sorted(depth for there, is_residual, depth in means if there == of and is_residual)
        for less, more in itertools.pairwise(depths):
            ratio = means[of, True, more] / means[of, True, less]
            lines.append(
                f"residual networks: the mean response of {more} layers is {ratio:.2f} times that of {less}, "
                f"{_paper(ratio < 1, 'weaker')}"
            )
    return lines


def _paper(holds: bool, word: str) -> str:
    return f"{word}, as in the paper" if holds else f"not {word}, other than in the paper"


def _document(networks: Sequence[Responding]) -> dict[str, Any]:
    rows = [
        {
            "network": one.label,
            "run": one.run,
            "arch": one.arch,
            "version": one.version,
            "of": one.of,
            "mean": one.mean,
            "layers": [layer._asdict() for layer in one.layers],
        }
        for one in networks
    ]
    return {"format": 1, "what": WHAT, "networks": rows, "findings": findings(networks)}


def _write(networks: Sequence[Responding], folder: Path) -> None:
    """Write curves and numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "run", "number", "layer", "deviation"])
    for one in networks:
        for number, layer in enumerate(one.layers, start=1):
            writer.writerow([one.label, one.run, number, layer.layer, repr(layer.deviation)])
    with written(folder / NUMBERS) as file:
        file.write(text.getvalue().encode())
    of = "; ".join(dict.fromkeys(one.of for one in networks))
    write_figure(draw_responses(networks, f"responses of trained networks to {of}"), folder / CURVES)
