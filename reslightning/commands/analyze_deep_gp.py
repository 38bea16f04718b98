"""analyze deep_gp: what depth does to deep Gaussian processes, and whether residual structure saves them."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Literal

from reslightning.analysis.deep_gp import PAPER, prior_pathology, residual_study
from reslightning.analysis.deep_gp_findings import MANY, of_fits, of_priors
from reslightning.analysis.findings import write_findings
from reslightning.cli.parser import CommandParser
from reslightning.files import finite

RULE = (
    f"Priors: three quarters of the draws have a ratio of singular values above {MANY:g}, or below. Fits: the 95 % "
    "interval of differences of the same seed, by Student's t, lies wholly on one side of the threshold."
)
Scale = Literal["tiny", "small", "full"]


def main(argv: list[str]) -> int:
    """Draw and fit what is missing, print what came out, and write tables and figures."""
    args = _parser().parse_args(argv[1:])
    to = args.to.expanduser()
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        found = {"priors": prior_pathology(to / "priors")}
        findings = of_priors(found["priors"])
        print("\n".join(map(str, findings)))
        if args.scale != "tiny":
            found["sphere"] = residual_study(to / f"sphere-{args.scale}", **(PAPER if args.scale == "full" else {}))
            findings += of_fits(found["sphere"])
        write_findings(to, RULE, findings)
        print(f"figures and numbers in {to}")
    if args.json:
        print(json.dumps(finite({"format": 1, **found}), indent=2))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning analyze deep_gp",
        description="How priors of deep Gaussian processes degenerate with depth (arXiv:1402.5836), and whether the "
        "residual form saves deep ones on the sphere (arXiv:2411.00161). Stopped and started again, only what is left "
        "is done.",
    )
    text = (
        "tiny (the priors, a minute), small (and fits on the sphere, a quarter of an hour) or full (the paper's grid)"
    )
    parser.add_argument("--scale", type=Scale, default="tiny", help=text)
    text = "the folder for results and figures (default: studies/deep_gp)"
    parser.add_argument("--to", type=Path, default=Path("studies/deep_gp"), metavar="DIR", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser
