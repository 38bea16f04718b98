"""sync: upload runs that were recorded offline, every segment of each, in order."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from reslightning.commands import CommandParser
from reslightning.errors import TrainingError, UserError
from reslightning.runs import find_runs

SECONDS = 300.0


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
    directories = [directory for path in args.runs for directory in find_runs(path.expanduser())]
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
        problem = _upload(segments, args.timeout)
        failed += problem is not None
        print(f"{directory}: " + (f"{len(segments)} segments uploaded" if problem is None else f"FAILED: {problem}"))
    if failed:
        print(f"{failed} of {len(directories)} runs were not uploaded; their files are as before: sync again")
    return int(failed > 0)


def wandb_server() -> tuple[str, str | None]:
    """Return the name of W&B's server, and why it cannot be reached; None if it can."""
    url = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        with socket.create_connection((str(url.hostname), port), timeout=5):
            return str(url.hostname), None
    except OSError as error:
        return str(url.hostname), str(error)


def offline_segments(directory: Path) -> list[Path]:
    """Return the folders of what a run recorded offline, in the order of their beginnings."""
    return sorted((directory / "wandb").glob("offline-run-*"), key=lambda path: path.name.split("-")[2])


def _upload(segments: list[Path], seconds: float) -> str | None:
    """Return what went wrong, None if nothing did.

    `wandb sync` uploads a run's segments in the order of their beginnings, and skips what it has uploaded.
    """
    if not any(any(segment.glob("*.wandb")) for segment in segments):
        return "its folders hold no recording"
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, segments)]
    environ = os.environ | {"WANDB_SILENT": "false"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environ, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"no answer from the server for {seconds:.0f} s"
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    wrong = [line for line in said if "error" in line.lower() or "fail" in line.lower()]
    if done.returncode or wrong:
        return " ".join((wrong or said)[-1].split()) if said else f"wandb sync ended with status {done.returncode}"
    return None
