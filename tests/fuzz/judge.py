"""Run a case in a forked child, and say what is wrong with how it ended: ``python -m tests.fuzz.judge SEED FROM TO``."""

import contextlib
import csv
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
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import reslightning
from reslightning import __main__
from tests.fuzz.cases import SHORT, SMALL, TRAINER, Case, case, typed
from tests.images import tree

SECONDS = 60.0
STATUSES = (0, 1, 2, 75, 130)
MEMORY = 16 << 30  # bytes of addresses: what would take more is refused it
NOWHERE = "http://127.0.0.1:9"
# What a message may say instead of naming what was given: that something was not.
MISSING = re.compile(r"no runs at |needs weights and got none|required|as --data\.root|needs a place to write to")
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
    for module in pkgutil.walk_packages(reslightning.__path__, "reslightning."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("matplotlib.pyplot", "sklearn.datasets", "wandb", "tests.small", "jinja2", "bokeh"):
        importlib.import_module(name)
    scene = folder / "scene"
    scene.mkdir()
    (folder / "made").mkdir()
    ended = run(Case(["fit", *SMALL.split(), *SHORT["fit"].split(), "--run_dir", "run"]), scene, folder / "made")
    assert ended.status == 0, ended.err
    shutil.copytree(ended.folder / "run", scene / "run")
    tree(scene / "images", classes=("cat", "dog"), train=2, val=1)
    (scene / "empty").mkdir()
    (scene / "text.txt").write_text("This is no config.\n")
    (scene / "loop").symlink_to("loop")
    return scene


def run(case: Case, scene: Path, folder: Path, *, process: bool = False) -> Ended:
    """Run a case over a copy of the scene, in a forked child or as a process of its own."""
    work, home = folder / "work", folder / "home"
    shutil.copytree(scene, work, symlinks=True)
    home.mkdir()
    for name, content in case.files.items():
        (work / name).write_text(content)
    if case.damage:
        damage(work, *case.damage)
    environ = {name: value for name, value in os.environ.items() if not ABSENT.match(name)}
    environ |= {name: NOWHERE for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "WANDB_BASE_URL")}
    environ |= {"HOME": str(home), "TMPDIR": str(home), "OMP_NUM_THREADS": "1"} | case.environ
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    before = contents(work)
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        if process:
            command = [sys.executable, "-m", "reslightning", *case.words]
            started = subprocess.Popen(command, cwd=work, env=environ, stdout=out, stderr=err, start_new_session=True)
            number = started.pid
        elif not (number := os.fork()):
            child(case, work, environ, out.fileno(), err.fileno())
    status = wait(number)
    texts = [(folder / name).read_bytes().decode(errors="replace") for name in ("out", "err")]
    return Ended(status, texts[0], texts[1], work, before, contents(work))


def child(case: Case, work: Path, environ: dict[str, str], out: int, err: int) -> None:
    """Be a command, and never return."""
    status = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(work)
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


def wait(number: int) -> int | None:
    """Return a child's status, None if its time ran out; what it started ends with it."""
    deadline, status = time.monotonic() + SECONDS, None
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


def verdict(case: Case, ended: Ended) -> Iterator[str]:
    """Yield what is wrong with how a case ended."""
    text = ended.out + ended.err
    if ended.status is None:
        yield f"did not end within {SECONDS:.0f} s"
        return
    if ended.status not in STATUSES:
        yield f"ended with status {ended.status}"
    if "Traceback (most recent call last)" in text:
        yield (
            "traceback: "
            + ([line for line in text.splitlines() if re.match(r"\w[\w.]*(Error|Exception|Interrupt)", line)] or ["?"])[
                -1
            ]
        )
    if ended.status == 2:
        if len(re.findall(r"^reslightning: ", ended.err, re.MULTILINE)) != 1:
            yield "not one message"
        elif not names_what_was_given(case, ended.err):
            yield "the message names nothing that was given: " + ended.err.strip()
        for name in sorted(ended.before.keys() | ended.after.keys()):
            if ended.before.get(name) != ended.after.get(name):
                yield f"left {name}" if name not in ended.before else f"changed {name}"
    if ended.status == 0:
        yield from without_effect(case, ended)


def names_what_was_given(case: Case, message: str) -> bool:
    """Whether a message has a value that was given, or where that is no word its option, or says what is missing."""
    told = {*case.environ, *case.environ.values(), *case.files, *Path(case.damage[1] if case.damage else "").parts}
    told |= {case.words[0]} - __main__.COMMANDS.keys()
    for name, value in case.given:
        read = meant(value)
        word = (
            isinstance(read, str | int | float)
            and not isinstance(read, bool)
            and value.isprintable()
            and len(value) > 1
        )
        told |= {value[:30], str(read), repr(read), Path(value).parts[0]} if word else {name}
        told |= {name} if name not in typed("fit") and case.words[0] in TRAINER else set()
    return bool(MISSING.search(message)) or any(
        re.search(rf"(?<![\w.]){re.escape(word)}(?![\w])", message) for word in told if word
    )


def without_effect(case: Case, ended: Ended) -> Iterator[str]:
    """Yield the options that were accepted and cannot be seen in what they are for."""
    command, last = case.words[0], dict(case.given)
    if "--help" in case.words or command not in __main__.COMMANDS:
        return
    runs = [
        path.parent
        for path in ended.folder.glob("**/config.yaml")
        if str(path.relative_to(ended.folder)) not in ended.before
    ]
    if "--print_config" in case.words or (command == "fit" and runs):
        content = yaml.safe_load(ended.out if "--print_config" in case.words else (runs[0] / "config.yaml").read_text())
        yield from (
            f"{name}={value} is {found!r}" for name, value in last.items() if (found := unlike(content, name, value))
        )
    if command == "fit" and runs:
        yield from trained(runs[0], last)
    for name in ("plot", "html", "output"):
        if (
            name in last
            and "--print_config" not in case.words
            and command in ("compare", "predict")
            and last[name] not in ("null", "")
        ):
            place = ended.folder / last[name]
            if not place.is_file():
                yield f"{name}={last[name]} was not written"
    if command == "compare" and last.get("format") == "json":
        json.loads(ended.out)
    if command == "pack" and (made := [p for p in ended.folder.glob("**/pack.json")]):
        record = json.loads(made[0].read_text())
        yield from (
            f"{n}={last[n]} is {record[n]}"
            for n in ("max_side", "short_side", "quality")
            if n in last and float(last[n]) != record[n]
        )
    if command == "submit" and "nothing to submit" not in ended.out:
        yield from (
            f"{n}={last[n]} is not in the script"
            for n in ("time", "partition", "qos", "account", "mem")
            if n in last and last[n] not in ended.out
        )


def unlike(content: Any, name: str, value: str) -> Any:
    """Return what a configuration has for an option, None if it is what was given."""
    if name in ("run_dir", "fresh", "output", "seed_everything", "data", "model", "trainer", "wandb"):
        return None
    place = name.replace("data.", "data.init_args.", 1) if name.startswith("data.") else name
    found = content
    for part in place.rstrip("+").split("."):
        found = (found or {}).get(part)
    read = meant(value)
    same = str(found) == value or numbers(found) == numbers(read) or value == "nan"
    return None if same or (isinstance(read, dict | str) and not isinstance(found, int | float | bool)) else str(found)


def numbers(value: Any) -> Any:
    """Return a value in which every number, also one that YAML takes for text, is a float."""
    if isinstance(value, list):
        return [numbers(item) for item in value]
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def meant(value: str) -> Any:
    """Return what a word is in YAML, or the word."""
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        return value


def trained(run: Path, last: dict[str, str]) -> Iterator[str]:
    """Yield what optimizer, loader and rows of a training do not have of its options."""
    if not (file := run / "checkpoints" / "last.ckpt").is_file():
        return
    groups = torch.load(file, weights_only=True)["optimizer_states"][0]["param_groups"]
    for name in ("momentum", "weight_decay", "nesterov"):
        value = last.get(f"model.optim.{name}")
        if value is not None and name in groups[0] and not any(float(meant(value)) == group[name] for group in groups):
            yield f"model.optim.{name}={value} is {groups[0][name]} in the optimizer"
    samples = json.loads((run / "summary.json").read_text())["n_samples"]
    if (held := last.get("data.val_split", "null")) not in ("null", "0") and samples["val"] != int(held):
        yield f"data.val_split={held}, and {samples['val']} images were held out"
    with (run / "metrics.csv").open(newline="") as rows:
        if len(list(csv.DictReader(rows))) != 1:
            yield "trainer.max_epochs=1 has other rows"


def check(
    seed: int, numbers: range, scene: Path, folder: Path, *, process: bool = False
) -> Iterator[tuple[int, Case, list[str]]]:
    """Yield number, case and what is wrong with it."""
    for number in numbers:
        drawn, place = case(seed, number), folder / str(number)
        place.mkdir(parents=True)
        yield number, drawn, list(verdict(drawn, run(drawn, scene, place, process=process)))
        shutil.rmtree(place)


def main(seed: int, start: int, stop: int) -> None:
    """Print every case that fails, and how many did."""
    with tempfile.TemporaryDirectory() as folder:
        scene, failed = prepare(Path(folder)), 0
        for number, drawn, wrong in check(seed, range(start, stop), scene, Path(folder)):
            failed += bool(wrong)
            for line in wrong:
                print(f"## seed {seed} case {number}: {line}\n{drawn}\n", flush=True)
        print(f"seed {seed}, cases {start} to {stop - 1}: {failed} failed")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
