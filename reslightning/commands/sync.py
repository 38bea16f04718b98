"""sync: upload runs that were recorded offline, every segment of each, in order."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from reslightning.commands import CommandParser
from reslightning.errors import TrainingError, UserError
from reslightning.runs import find_runs
from reslightning.wandb_runs import OFFLINE, wandb_url

SECONDS = 300.0
HEADER = 7  # bytes of a recording in front of its first record


def main(argv: list[str]) -> int:
    """Upload; exit status 1 where a run could not be, of which nothing is lost."""
    parser = CommandParser(
        prog="reslightning sync",
        description="Upload runs that were recorded offline to W&B. What is uploaded already stays as it is.",
    )
    text = "run directories, or folders of them (default: runs)"
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], metavar="RUN", help=text)
    text = "seconds for each run's upload (default: 300)"
    parser.add_argument("--timeout", type=float, default=SECONDS, metavar="S", help=text)
    args = parser.parse_args(argv[1:])
    directories = list(dict.fromkeys(directory for path in args.runs for directory in find_runs(path.expanduser())))
    if not directories:
        raise UserError(f"no runs at {', '.join(str(path.absolute()) for path in args.runs)}")
    host, problem = wandb_server()
    if problem:
        raise TrainingError(
            f"W&B's server {host} cannot be reached: {problem}\nNothing was uploaded, and nothing is lost: sync again "
            "where there is a network."
        )
    failed = 0
    for directory in directories:
        segments = offline_segments(directory)
        if not segments:
            print(f"{directory}: nothing was recorded offline")
            continue
        problem = _upload(directory, segments, args.timeout)
        failed += problem is not None
        print(f"{directory}: " + (f"{len(segments)} segments uploaded" if problem is None else f"FAILED: {problem}"))
    if failed:
        print(f"{failed} of {len(directories)} runs were not uploaded; their files are as before: sync again")
    return int(failed > 0)


def wandb_server() -> tuple[str, str | None]:
    """Return the name of W&B's server, and why it cannot be reached; None if it can, or lies behind a proxy."""
    url = urlsplit(wandb_url())
    if url.scheme in getproxies() and not proxy_bypass(str(url.hostname)):
        return str(url.hostname), None
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        with socket.create_connection((str(url.hostname), port), timeout=5):
            return str(url.hostname), None
    except OSError as error:
        return str(url.hostname), str(error)


def offline_segments(directory: Path) -> list[Path]:
    """Return the folders of what a run recorded offline, in the order of their beginnings."""
    found = sorted((directory / "wandb").glob(f"{OFFLINE}*"), key=lambda path: path.name.split("-")[2])
    # A process that was killed early leaves a header alone, with which W&B would refuse all the others, too.
    return [path for path in found if any(file.stat().st_size > HEADER for file in path.glob("*.wandb"))]


def _upload(directory: Path, segments: list[Path], seconds: float) -> str | None:
    """Return what went wrong, None if nothing did.

    `wandb sync` uploads a run's segments in the order of their beginnings, and skips what it has uploaded.
    """
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, segments)]
    # Its own log goes beside the recordings, not to the working folder, whose settings would then not be found.
    environ = os.environ | {"WANDB_SILENT": "false", "WANDB_BASE_URL": wandb_url(), "WANDB_DIR": str(directory)}
    environ.pop("WANDB_SERVICE", None)  # of a run in this process
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environ, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"no answer from the server for {seconds:.0f} s"
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    wrong = [line for line in said if re.match(r"(wandb: )?error\b", line, re.IGNORECASE)]  # its status may be 0
    if done.returncode or wrong:
        return (
            " ".join(wrong[0].split()) if wrong else f"wandb sync ended with {done.returncode}: {' '.join(said[-1:])}"
        )
    return None
