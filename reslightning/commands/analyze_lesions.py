"""analyze lesions: what a trained network loses without some of its blocks, or with some of them swapped."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tabulate import tabulate

from reslightning.analysis.lesion_figures import Lesioned, draw_lesions, mean_and_spread
from reslightning.cli.parser import CommandParser
from reslightning.commands.analyze import KINDS, check_trained, images_there, results_folder
from reslightning.commands.train import carry_out
from reslightning.compare.figures import write_figure
from reslightning.files import finite, written

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from reslightning.data.base import DataModule
    from reslightning.data.registry import Split
    from reslightning.train.classifier import ImageClassifier

DRAWS = 10
NUMBERS, CURVES = "lesions.csv", "lesions.png"
EVALUATIONS = {"test": "test", "val": "validate"}
HEADS = ("", "draws", "mean error", "deviation", "lowest", "highest")


def main(argv: list[str]) -> int:
    """Print what lesions do, and write a figure and numbers if asked."""
    args = _parser().parse_args(argv[1:])
    arch = check_trained(args.run_dir.expanduser())
    to = results_folder(args.to, NUMBERS, CURVES)
    found = _measured(args, arch)
    if to:
        _write(found, to)
    if args.json:
        print(json.dumps(finite(_document(found, args)), indent=2))
        return 0
    _print(found)
    print(f"\nfigure and numbers written to {to}" if to else "\n--to DIR draws errors by block, number and order")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning analyze lesions",
        description="Evaluate a trained network without each of its blocks in turn, without some at random, and with "
        "some of a stage swapped (arXiv:1605.06431, Section 4). A residual block that is removed leaves its shortcut, "
        "a plain one what it is given; blocks that change the shape of the map stay. Without a lesion it is "
        "`reslightning test --run_dir RUN` on one device.",
    )
    parser.add_argument("--run_dir", type=Path, required=True, metavar="RUN", help="the run")
    parser.add_argument("--split", choices=[*EVALUATIONS], default="test", help="whose images (default: test)")
    parser.add_argument("--root", metavar="DIR", help="where the data is (default: as the run has it)")
    text = f"random choices of each number of blocks and pairs, all different (default: {DRAWS})"
    parser.add_argument("--draws", type=PositiveInt, default=DRAWS, metavar="N", help=text)
    parser.add_argument(
        "--seed_everything", type=NonNegativeInt, default=0, metavar="N", help="of the draws (default: 0)"
    )
    text = f"folder for a figure, {CURVES}, and numbers, {NUMBERS}"
    parser.add_argument("--to", type=Path, metavar="DIR", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser


def _measured(args: Namespace, arch: str) -> Lesioned:
    """Return what lesions of the run do, evaluated as `test` or `validate` would."""
    from reslightning.analysis.gradient_flow import blocks_of
    from reslightning.analysis.lesions import measured, plan
    from reslightning.cli.measuring import Measuring

    def measure(trainer: Trainer, model: ImageClassifier, data: DataModule, split: Split) -> Lesioned:
        images_there(data, split)
        planned = plan(model.model, int(args.draws), int(args.seed_everything), arch)
        found, images = measured(trainer, model, data, split, planned)
        label = f"{arch} of {args.run_dir}, {images:,} {KINDS[split]} images of {type(data).__name__}"
        return Lesioned(label, [*blocks_of(model.model)], found)

    words = [EVALUATIONS[args.split], "--run_dir", str(args.run_dir)]
    words += ["--trainer.devices=1", "--trainer.num_nodes=1", *([f"--data.root={args.root}"] if args.root else [])]
    results: list[Lesioned] = []
    with contextlib.redirect_stdout(sys.stderr):  # what is said of the images is no result
        carry_out(lambda: results.append(Measuring(words, measure).measured))
    return results[0]


def _print(found: Lesioned) -> None:
    single = sorted(found.of("block"), key=lambda one: one.error)
    print(f"{found.label}: top-1 error, percent")
    worst = single[-1]
    print(f"  without a lesion   {found.whole:6.2f}")
    print(f"  without one block  {fmean(one.error for one in single):6.2f} in the mean of {len(single)}")
    print(f"  at worst           {worst.error:6.2f} without {worst.blocks[0]}")
    if found.skipped:
        count, names = len(found.skipped), ", ".join(found.skipped)
        print(f"  {count} of {len(found.blocks)} blocks change{'s' * (count == 1)} the shape, never removed: {names}")
    for kind, noun in (("removed", "block"), ("swapped", "pair")):
        rows = [
            _row(f"{number} {noun}{'s' * (number > 1)} {kind}", each) for number, each in found.counts(kind).items()
        ]
        heads = (*HEADS, "Kendall's tau") if kind == "swapped" else HEADS
        align = ("left", *["right"] * (len(heads) - 1))
        print("\n" + tabulate(rows, heads, colalign=align, disable_numparse=True) if rows else "")
    if not found.of("swapped"):
        print("no two blocks of a stage keep its shape: none are swapped")


def _row(name: str, lesions: Sequence[Any]) -> list[str]:
    errors = [one.error for one in lesions]
    mean, spread = mean_and_spread(errors)
    taus = [f"{fmean(one.tau for one in lesions):.2f}"] if lesions[0].kind == "swapped" else []
    deviation = f"{spread:.2f}" if len(errors) > 1 else ""
    return [name, str(len(errors)), f"{mean:.2f}", deviation, f"{min(errors):.2f}", f"{max(errors):.2f}", *taus]


def _document(found: Lesioned, args: Namespace) -> dict[str, Any]:
    rows = [
        {"kind": one.kind, "number": one.number, "blocks": one.blocks, "tau": one.tau, "error": one.error}
        for one in found.lesions
    ]
    return {
        "format": 1,
        "of": found.label,
        "split": args.split,
        "seed": int(args.seed_everything),
        "error": found.whole,
        "blocks": found.blocks,
        "skipped": found.skipped,
        "lesions": rows,
    }


def _write(found: Lesioned, folder: Path) -> None:
    """Write the figure and its numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["lesion", "number", "blocks", "tau", "error"])
    for one in found.lesions:
        tau = repr(one.tau) if one.tau == one.tau else ""
        writer.writerow([one.kind, one.number, " ".join(one.blocks), tau, repr(one.error)])
    with written(folder / NUMBERS) as file:
        file.write(text.getvalue().encode())
    write_figure(draw_lesions(found), folder / CURVES)
