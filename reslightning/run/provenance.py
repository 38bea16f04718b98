"""Which code trained a run: commit, content, versions, and copies that later edits do not reach; without torch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reslightning.files import sync
from reslightning.run.summary import Summary

PACKAGE = Path(__file__).resolve().parents[1]
SNAPSHOT = "snapshot.json"  # beside a copy of the package: where it was copied from


def code_version() -> tuple[str | None, bool | None]:
    """Return the commit of this package's checkout and whether files differ from it."""
    if (snapshot := PACKAGE.parent / SNAPSHOT).is_file():
        taken = json.loads(snapshot.read_text())
        return taken["commit"], taken["dirty"]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if Path(git("rev-parse", "--show-toplevel")) == PACKAGE.parent:
            return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    return None, None


@functools.cache
def code_hash() -> str:
    """Return twelve hexadecimal digits that name the content of this package's modules."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def mixed_code(summary: Summary) -> str | None:
    """Return a line that says which code a run's segments ran; None where it was the same."""
    ran: dict[str, dict[str, Any]] = {}
    for part in summary.get("segments") or []:
        if part.get("to_step", 0) > part.get("from_step", 0):
            code = str(part.get("code") or part.get("commit"))
            steps = f"{part.get('from_step', 0)}-{part.get('to_step', 0)}"
            ran.setdefault(code, {"part": part, "steps": []})["steps"].append(steps)
    if len(ran) < 2:
        return None
    texts = []
    for code, found in ran.items():
        commit, edited = found["part"].get("commit"), " with edits" if found["part"].get("dirty") else ""
        origin = f" (commit {str(commit)[:9]}{edited})" if commit else ""
        texts.append(f"{code}{origin} at steps {', '.join(found['steps'])}")
    return f"mixed code: {len(ran)} versions of reslightning trained this run: " + "; ".join(texts)


def changed_code(summary: Summary) -> str | None:
    """Return a line where a run's last segment runs other code than trained until then."""
    *earlier, now = summary["segments"]
    trained = [part for part in earlier if part["to_step"] > part["from_step"]]
    if not trained or trained[-1].get("code") in (now["code"], None):
        return None
    last = trained[-1]
    return f"reslightning's code changed at step {last['to_step']}: {last['code']} before, {now['code']} from now on"


def snapshot(to: Path) -> None:
    """Copy this package, with its configs, into the folder ``to``; a PYTHONPATH of it runs the copy."""
    commit, dirty = code_version()
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    partial = to.with_name(f"{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(PACKAGE, partial / PACKAGE.name, ignore=ignored)
    if not (PACKAGE / "configs").is_dir():  # a checkout's lie beside the package
        shutil.copytree(PACKAGE.parent / "configs", partial / "configs")
    (partial / SNAPSHOT).write_text(json.dumps({"commit": commit, "dirty": dirty}) + "\n")
    for path in partial.rglob("*"):
        sync(path)
    partial.rename(to)
    sync(to.parent)


def environment() -> dict[str, Any]:
    """Return where a segment runs: machine, Python, and what Slurm allocated; no variable that could hold a secret."""
    slurm = {
        name.removeprefix("SLURM_").lower(): os.environ[name]
        for name in ("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_JOB_NODELIST", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK")
        if name in os.environ
    }
    gpus = os.environ.get("SLURM_GPUS_ON_NODE")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        **({"slurm": slurm | ({"gpus_on_node": gpus} if gpus else {})} if slurm else {}),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    found = {}
    for package in ("reslightning", "torch", "torchvision", "lightning", "wandb"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
