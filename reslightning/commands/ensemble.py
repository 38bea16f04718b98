"""ensemble: the average of several networks' probabilities, beside each of them."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from tabulate import tabulate

from reslightning.cli.parser import CommandParser
from reslightning.errors import UserError
from reslightning.evaluation.answers import SUFFIX, Answers, check_place
from reslightning.evaluation.certainty import mcnemar, wilson
from reslightning.evaluation.ensemble import aligned, ensemble
from reslightning.files import finite
from reslightning.models.published import PUBLISHED, TEST_IMAGES
from reslightning.run import layout
from reslightning.run.summary import error_percent

TOPS = ("top1", "top5")
PAIRS = 10  # of networks that are shown; --json has all


def main(argv: list[str]) -> int:
    """Print members and ensemble, and write the ensemble's answers if asked."""
    args = _parser().parse_args(argv[1:])
    weights = _weights(args)
    if args.save:
        check_place(args.save.expanduser())
    files = [_file(member.expanduser(), args.protocol) for member in args.members]
    if twice := [name for name in files if files.count(name) > 1]:
        raise UserError(f"{twice[0]} is given twice; to count it for more than one, give --weights")
    members = aligned({str(member): Answers.read(file) for member, file in zip(args.members, files, strict=True)})
    together = ensemble(list(members.values()), weights)
    found = {name: _found(one) for name, one in members.items()}
    report = {"members": found, "weights": weights, "ensemble": _found(together), "pairs": _pairs(members)}
    if args.json:
        print(json.dumps(finite({"format": 1, **report}), indent=2))
    else:
        _print(report, together)
    if args.save:
        together.write(args.save.expanduser())
        if not args.json:
            print(f"the ensemble's probabilities written to {args.save}")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning ensemble",
        description="Average the probabilities that several networks gave the same images, and report the average "
        "beside them: with Wilson's 95 % intervals, and with McNemar's exact test of each two networks. Images, labels "
        "and classes are matched by name. Members are made by reslightning test --run_dir RUN --save.",
    )
    text = f"run directories whose test was saved, or files of answers ({SUFFIX})"
    parser.add_argument("members", nargs="+", type=Path, metavar="RUN_OR_FILE", help=text)
    parser.add_argument("--protocol", help="which of a run's saved evaluations: center, flip, ten-crop, ...")
    text = "for how much each member counts: 2,1,1 (default: all alike)"
    parser.add_argument("--weights", metavar="W,W,...", help=text)
    text = "write the ensemble's answers, which may be a member, too"
    parser.add_argument("--save", type=Path, metavar=f"FILE{SUFFIX}", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser


def _weights(args: Namespace) -> list[float]:
    members = len(args.members)
    if args.weights is None:
        return [1.0] * members
    try:
        weights = [float(word) for word in args.weights.split(",")]
    except ValueError:
        weights = []
    if len(weights) != members or not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise UserError(
            f"--weights {args.weights} is not allowed; allowed: {members} numbers with commas between them, one for "
            "each member, 0 or more and not all 0"
        )
    return weights


def _file(member: Path, protocol: str | None) -> Path:
    """Return the file of answers that a member means: its own, or that of a run's test."""
    if not member.is_dir():
        return member
    saved = sorted((member / layout.EVALUATIONS).glob(f"test-*{SUFFIX}"))
    chosen = [file for file in saved if protocol in (None, file.stem.removeprefix("test-"))]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        there = ", ".join(file.stem.removeprefix("test-") for file in chosen)
        raise UserError(f"{member} has several saved evaluations; choose one by --protocol, or give the file: {there}")
    asked = f" --protocol {protocol}" if protocol else ""
    there = f"\nthere are: {', '.join(file.stem.removeprefix('test-') for file in saved)}" if saved else ""
    raise UserError(
        f"{member} has no saved evaluation{f' by {protocol}' if protocol else ''}{there}\nMake it with reslightning "
        f"test --run_dir {member}{asked} --save"
    )


def _found(answers: Answers) -> dict[str, Any]:
    metrics = answers.metrics()
    count = int(metrics["n_samples"])
    intervals = {top: wilson(metrics[top] * count, count) for top in TOPS if top in metrics}
    return {"metrics": metrics, "intervals": intervals, "facts": answers.facts}


def _pairs(members: Mapping[str, Answers]) -> list[dict[str, Any]]:
    rows = []
    for (one_name, one), (other_name, other) in itertools.combinations(members.items(), 2):
        alone = int((one.right & ~other.right).sum()), int((other.right & ~one.right).sum())
        rows.append({"networks": [one_name, other_name], "alone_right": list(alone), "mcnemar_p": mcnemar(*alone)})
    return rows


def _print(report: Mapping[str, Any], together: Answers) -> None:
    members, whole = report["members"], report["ensemble"]
    facts, count = together.facts, whole["metrics"]["n_samples"]
    tops = [top for top in TOPS if top in whole["metrics"]]
    print(f"{facts['dataset']} {facts['split']}, {count:,} images\n")
    rows = [[name, *_cells(found, tops)] for name, found in members.items()]
    if len(members) > 1:
        rows.append(["mean of the members", *_means(list(members.values()), tops)])
    rows.append([f"ensemble of {len(members)}", *_cells(whole, tops)])
    heads = ["network", *itertools.chain.from_iterable((f"top-{top[3:]} error", "95 %") for top in tops)]
    heads += ["loss", "calibration error"]
    print(tabulate(rows, heads, disable_numparse=True, colalign=("left", *["right"] * (len(heads) - 1))))
    for line in [*_beside(facts, count), *_protocols(members)]:
        print(line)
    for pair in report["pairs"][:PAIRS]:
        (one, other), (first, second) = pair["networks"], pair["alone_right"]
        print(
            f"these two networks on the same images: {one} alone is right on {first:,}, {other} alone on {second:,}; "
            f"McNemar's exact p = {pair['mcnemar_p']:.2g}"
        )
    if (rest := len(report["pairs"]) - PAIRS) > 0:
        print(f"and {rest} pairs more, which --json has")


def _cells(found: Mapping[str, Any], tops: Sequence[str]) -> list[str]:
    cells = []
    for top in tops:
        low, high = found["intervals"][top]
        cells += [_error(found, top), f"{error_percent(high):.2f} to {error_percent(low):.2f}"]
    return [*cells, f"{found['metrics']['loss']:.4f}", f"{100 * found['metrics']['calibration']:.2f} %"]


def _error(found: Mapping[str, Any], top: str) -> str:
    return f"{error_percent(found['metrics'][top]):.2f} %"


def _means(members: Sequence[Mapping[str, Any]], tops: Sequence[str]) -> list[str]:
    cells = []
    for top in tops:
        errors = [error_percent(found["metrics"][top]) for found in members]
        cells += [f"{statistics.mean(errors):.2f} ± {statistics.stdev(errors):.2f} %", ""]
    return [*cells, f"{statistics.mean(found['metrics']['loss'] for found in members):.4f}", ""]


def _beside(facts: Mapping[str, Any], count: int) -> list[str]:
    """Return lines with the published ensembles of a data set, where all of its images were seen."""
    rows = [row for row in PUBLISHED if (row.protocol, row.dataset) == ("ensemble", facts["dataset"])]
    return [f"published: top-5 {row.top5} %, {row.source}" for row in rows if count == TEST_IMAGES[row.dataset]]


def _protocols(members: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line where members were evaluated differently, or saw edited copies of the images."""
    kinds = {name: str(found["facts"].get("protocol", "an ensemble")) for name, found in members.items()}
    data = {found["facts"]["fingerprint"]["data"] for found in members.values()}
    lines = [f"the members' protocols differ: {', '.join(kinds.values())}"] if len(set(kinds.values())) > 1 else []
    if len(data) > 1:
        lines.append(
            f"the members saw images of the same names and labels, but of other content: {', '.join(sorted(data))}"
        )
    return lines
