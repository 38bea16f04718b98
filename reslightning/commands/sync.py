"""sync: upload what W&B's server does not have of runs, in order."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from jsonargparse.typing import PositiveFloat

from reslightning.cli.configs import load_config
from reslightning.cli.parser import CommandParser
from reslightning.errors import TrainingError, UserError
from reslightning.run import layout
from reslightning.run.record import RunRecord, find_runs
from reslightning.run.summary import SegmentFacts
from reslightning.track.wandb_settings import told, wandb_url

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
    parser.add_argument("--timeout", type=PositiveFloat, default=SECONDS, metavar="S", help=text)
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
        done, problem = _sync(directory, args.timeout)
        failed += problem is not None
        print(f"{directory}: " + (done if problem is None else f"FAILED: {problem}"))
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


def _sync(directory: Path, seconds: float) -> tuple[str, str | None]:
    """Return what was done, and what went wrong, if anything did.

    Recordings are uploaded where they are all there is, and whole, and were not begun to be. A segment that was killed
    took along what its recording did not have yet, of one that was online the server alone knows what arrived, and one
    without W&B has none: of such a run the epochs that the server does not have are sent from metrics.csv.
    """
    segments, record = list[SegmentFacts](), None
    with contextlib.suppress(UserError):
        record = RunRecord.from_directory(directory)
        segments = record.summary.get("segments") or []
    recordings = offline_segments(directory, record)
    if record and record.status == "running" and not record.dead:
        return "left for later: it is being trained", None
    ended = [
        part.get("recorded") and part.get("wandb")
        for part in segments
        if "wandb" in part or part.get("to_step", 0) > part.get("from_step", 0)
    ]
    if not recordings and not any("wandb" in part for part in segments):
        return "nothing was recorded offline", None
    if record and all(mode == "online" for mode in ended):
        return "recorded online", None
    if record is None or (all(mode == "offline" for mode in ended) and not any(map(_begun, recordings))):
        return f"{len(recordings)} segments uploaded", _upload(directory, recordings, seconds)
    return _send(record, seconds)


def _begun(recording: Path) -> bool:
    """Whether an upload of it was interrupted: W&B would begin again, behind what it has."""
    return any(not state.with_suffix(".synced").exists() for state in recording.glob("*.wandb.syncstate"))


def offline_segments(directory: Path, record: RunRecord | None = None) -> list[Path]:
    """Return the folders of what a run recorded offline, in the order of their beginnings."""
    here = list((directory / layout.WANDB).glob("offline-run-*"))
    if record:  # where $WANDB_DIR was, several runs have theirs
        elsewhere = {part["wandb_dir"] for part in record.summary.get("segments") or [] if "wandb_dir" in part}
        for folder in elsewhere:
            here += (Path(folder) / layout.WANDB).glob(f"offline-run-*-{record.summary['run_id']}")
    found = sorted(here, key=lambda path: path.name.split("-")[2])
    # With a header alone W&B would refuse all the others, too.
    return [path for path in found if any(file.stat().st_size > HEADER for file in path.glob("*.wandb"))]


def _upload(directory: Path, segments: list[Path], seconds: float) -> str | None:
    """Return what went wrong, None if nothing did.

    `wandb sync` uploads a run's segments in the order of their beginnings, and skips what it has uploaded.
    """
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, segments)]
    # Its own log goes beside the recordings, not to the working folder, whose settings would then not be found.
    with told():
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
    if not wrong and not done.returncode:
        return None
    return " ".join((wrong or [*said[-1:], f"wandb sync ended with status {done.returncode}"])[0].split())


def _send(record: RunRecord, seconds: float) -> tuple[str, str | None]:
    """Send a run from its own files: the epochs, and what a finished one found, that the server does not have."""
    from reslightning.track.wandb_logger import begin_wandb, wandb_config, wandb_summary
    from reslightning.track.wandb_settings import Wandb

    directory, summary = Path(record.source), record.summary
    try:
        config = load_config(directory / layout.CONFIG)
        options = Wandb(**config["wandb"])
        options = replace(options, group=summary.get("group"), tags=summary.get("tags") or options.tags).acceptable()
        facts = wandb_config(config, summary)
        logger = begin_wandb(options, "online", directory, summary["run_id"], facts, finish_timeout=seconds)
    except Exception as error:  # whatever W&B, or a file that is cut, says
        return "", " ".join(f"{type(error).__name__}: {error}".split())
    sent = logger.catch_up(record.history)
    logger.show(directory / layout.EVALUATIONS)
    if not logger.finish(0 if record.status == "finished" else 1, wandb_summary(summary)):
        return "", f"the server did not take all of it within {seconds:.0f} s"
    return f"{sent} epochs sent from metrics.csv", None
