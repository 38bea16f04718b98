"""Run a case in a forked child; a process that has imported everything starts one in no time."""

import contextlib
import faulthandler
import hashlib
import importlib
import json
import os
import pkgutil
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import reslightning
from reslightning import __main__
from reslightning.cli.loading import loading
from tests.fuzz.cases import SHORT, SMALL, Case
from tests.images import tree

SECONDS = 60.0
MEMORY = 16 << 30  # bytes of addresses: what would take more is refused it
NOWHERE = "http://127.0.0.1:9"
ABSENT = re.compile(r"^(SLURM|WANDB|RESLIGHTNING|LOCAL|NODE|MASTER|WORLD)_")  # from what a case finds


@dataclass
class Ended:
    """How a case ended: status, None out of time, output, and what lay in its folder before and behind it."""

    status: int | None
    out: str
    err: str
    folder: Path
    before: dict[str, str]
    after: dict[str, str]


def prepare(folder: Path) -> Path:
    """Import everything, and make what a case finds: a run, images, an empty folder, a text, a link to itself."""
    with loading(aloud=False):
        for module in pkgutil.walk_packages(reslightning.__path__, "reslightning."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        for name in ("matplotlib.pyplot", "sklearn.datasets", "wandb", "tests.small", "jinja2", "bokeh"):
            importlib.import_module(name)
    folder.mkdir(parents=True, exist_ok=True)
    scene = folder / "scene"
    scene.mkdir()
    ended = run(Case(["fit", *SMALL.split(), *SHORT["fit"].split(), "--run_dir", "run"]), scene, folder / "made")
    assert ended.status == 0, ended.err
    shutil.copytree(ended.folder / "run", scene / "run")
    tree(scene / "images", classes=("cat", "dog"), train=2, val=1)
    (scene / "empty").mkdir()
    (scene / "text.txt").write_text("This is no config.\n")
    (scene / "loop").symlink_to("loop")
    return scene


def run(
    case: Case,
    scene: Path,
    folder: Path,
    *,
    process: bool = False,
    seconds: float = SECONDS,
    plant: Callable[[], None] = lambda: None,
) -> Ended:
    """Run a case over a copy of the scene, in a forked child, with a fault perhaps, or as a process of its own."""
    work, home = folder / "work", folder / "home"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(scene, work, symlinks=True)
    home.mkdir()
    for name, content in case.files.items():
        (work / name).write_text(content)
    if case.damage:
        damage(work, *case.damage)
    environ = {name: value for name, value in os.environ.items() if not ABSENT.match(name)}
    environ |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "WANDB_BASE_URL"), NOWHERE)
    environ |= {"HOME": str(home), "TMPDIR": str(home), "OMP_NUM_THREADS": "1"} | case.environ
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    before = contents(work)
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        if not (number := os.fork()):
            plant()
            child(case, work, environ, out.fileno(), err.fileno(), process=process)
    status = wait(number, seconds)
    texts = [(folder / name).read_bytes().decode(errors="replace") for name in ("out", "err")]
    return Ended(status, texts[0], texts[1], work, before, contents(work))


def child(case: Case, work: Path, environ: dict[str, str], out: int, err: int, *, process: bool) -> None:
    """Be a command, in this process or in a new one's place, and never return."""
    status = 70
    try:
        os.setsid()
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(work)
        if process:
            os.execve(sys.executable, [sys.executable, "-m", "reslightning", *case.words], environ)
        tempfile.tempdir = None
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.set_num_threads(1)  # the pool of more would not have been forked
        sys.argv = ["reslightning", *case.words]
        status = __main__.main(case.words)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def wait(number: int, seconds: float) -> int | None:
    """Return a child's status, None if its time ran out; what it started ends with it."""
    deadline, status = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        done, state = os.waitpid(number, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(state)
            break
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
    if status is None:
        os.waitpid(number, 0)
    return status


def contents(folder: Path) -> dict[str, str]:
    """Return what lies below a folder: of files a digest, of links where they go."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            kind = "link to " + str(path.readlink()) if path.is_symlink() else "folder" if path.is_dir() else "special"
            regular = path.is_file() and not path.is_symlink()
            found[str(path.relative_to(folder))] = hashlib.md5(path.read_bytes()).hexdigest() if regular else kind
    return found


def damage(work: Path, kind: str, name: str, number: int) -> None:
    """Do to a file what disks, editors and killed processes do."""
    path = work / name
    if path.is_dir():
        shutil.rmtree(path)
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "value" and name.endswith((".json", ".yaml")):
        path.write_text(json.dumps(changed(yaml.safe_load(content), random.Random(number))))
    elif kind != "gone":
        garbage = random.Random(number).randbytes(300)
        path.write_bytes({"cut": content[: number % (len(content) + 1)], "empty": b""}.get(kind, garbage))


def changed(value: Any, draw: random.Random) -> Any:
    """Return content with one value, however deep, replaced."""
    if isinstance(value, dict | list) and value and draw.random() < 0.8:
        copy: Any = value.copy()
        key = draw.choice(sorted(copy) if isinstance(copy, dict) else range(len(copy)))
        copy[key] = changed(copy[key], draw)
        return copy
    return draw.choice((None, 3, -1.5, "x", [], {}, [3], {"a": 1}, True))
