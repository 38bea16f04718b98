"""How a job starts again: signs of life, and the one request for another start."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from reslightning.cluster.allocation import first_task, job_id, job_record, restarts, warn_of_limit

# Asks for a checkpoint and another start; a bare SIGTERM may be somebody's scancel, and only saves.
REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
STARTS_WITHOUT_PROGRESS = 3  # in a row, then Slurm's restarts end
# A file on the first node: empty until training begins, then the run's place; younger than the silence while it lives,
# and gone when the first task has failed by what would fail again.
ALIVE_VARIABLE = "RESLIGHTNING_ALIVE"
SILENCE = 120.0  # seconds without a sign of life after which the first task counts as lost
POLL, LOOKS = 10.0, 6  # it must be found silent so often: a suspended job wakes up with an old sign


def _alive() -> Path | None:
    path = Path(os.environ.get(ALIVE_VARIABLE) or "/nonexistent")
    return path if path.is_file() else None


def begun(directory: Path) -> None:
    """Say that training has begun, and where, so that what ends it from now on counts against its progress."""
    if path := _alive():
        path.write_text(f"{directory.resolve()}\n")


def begun_in() -> Path | None:
    """Return the run directory of the training that has begun, if one has."""
    path = _alive()
    directory = path.read_text().removesuffix("\n") if path else ""
    return Path(directory) if directory else None


def give_up() -> None:
    """Say, as the first task, that another start would fail as this one: Slurm may kill the others for its end."""
    if first_task() and (path := _alive()):
        path.unlink(missing_ok=True)


def beat() -> None:
    """Give a sign of life to whoever waits for the tasks."""
    with contextlib.suppress(OSError):
        if path := _alive():
            os.utime(path)


def silent() -> bool:
    """Whether the first task, once begun, has given no sign of life for too long."""
    path = _alive()
    return path is not None and path.stat().st_size > 0 and time.time() - path.stat().st_mtime > SILENCE


def watch(shell: int) -> int:
    """Kill a shell's srun when the first task is lost: srun itself waits for ever for a step whose daemon died."""
    warn_of_limit()
    looks = 0
    while _alive():
        looks = looks + 1 if silent() else 0
        if looks >= LOOKS:
            subprocess.run(["pkill", "-KILL", "-P", str(shell), "srun"])
            return 0
        time.sleep(POLL)
    return 0


def requeue() -> str:
    """Ask Slurm to start this job again, once it has ended, and return what came of it."""
    job = job_id()
    behind = f"sbatch --dependency=afterany:{job} ..."
    again = f"its next segment goes on; if it has none, submit the same command again, or {behind}"
    try:
        done = subprocess.run(["scontrol", "requeue", str(job)], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return f"scontrol is not installed here, so Slurm job {job} is not requeued: {again}"
    except subprocess.TimeoutExpired:
        return f"scontrol did not answer for 60 s, so Slurm job {job} may not be requeued: see squeue, else {again}"
    if done.returncode:
        return f"Slurm job {job} is not requeued ({(done.stderr or done.stdout).strip()}): {again}"
    return f"Slurm job {job} is requeued"


def ended(status: int) -> int:
    """Requeue a job whose tasks were killed, and return the batch script's exit status.

    Tasks that were asked to stop have requeued the job themselves; a failed training, status 1 or
    2, would fail again, and of that the first task's word counts. What was killed, by the kernel for
    its memory or by its node's trouble, goes on from its checkpoint.
    """
    path = _alive()
    if path is None and os.environ.get(ALIVE_VARIABLE):
        return min(status, 2)
    never_began = path is not None and path.stat().st_size == 0
    if path:
        path.unlink()
    if status <= 128 or status - 128 in (signal.SIGTERM, signal.SIGINT) or not running():
        return status
    killed = f"a task was killed by signal {status - 128}"
    if never_began and restarts() >= STARTS_WITHOUT_PROGRESS:
        print(f"reslightning: {killed} before training began, at restart {restarts()}: not requeued", file=sys.stderr)
        return status
    print(f"reslightning: {killed}: {requeue()}", file=sys.stderr, flush=True)
    return status


def running() -> bool:
    """Whether this job runs; one that was cancelled or is out of time does not any more."""
    state = re.search(r"JobState=(\w+)", job_record())
    return state is None or state[1] == "RUNNING"
