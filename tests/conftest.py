"""What tests share: the command line in this process, real data, and small fast runs."""

from __future__ import annotations

import atexit
import csv
import gc
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from reslightning.__main__ import main
from reslightning.errors import SIGNALS

SHARED = Path(os.environ.get("RESLIGHTNING_SHARED", Path(__file__).parents[2] / "shared"))
# A few tenths of a second of real training: 5 steps of 256 digits an epoch, validated on 359.
OPTIONS = "--model.arch resnet8 --data.batch_size 256 --model.schedule.warmup 1 --wandb.mode disabled"
SMALL = f"--data tests.small.Thumbnails {OPTIONS}"
LARGER = f"--data tests.small.Originals {OPTIONS}"  # of 8 x 8 pixels


@dataclass
class Result:
    status: int
    out: str
    err: str


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Any:
    """Import everything without looking for garbage, for which what is imported is not searched later, either."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut():
    """No test cuts the power: what is written need not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Each test has an empty working folder and none of the caller's settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("RESLIGHTNING_RUN_DIR", "RESLIGHTNING_DATA", "WANDB_API_KEY", "WANDB_MODE", "LOCAL_RANK", "NODE_RANK"):
        # Set first, so that what the command itself sets is undone behind the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    threads, handlers = torch.get_num_threads(), {number: signal.getsignal(number) for number in SIGNALS}
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def cli(capfd, monkeypatch):
    """Run a command line in this process, as a user would see it."""

    def run(line: str) -> Result:
        monkeypatch.delenv("RESLIGHTNING_RUN_DIR", raising=False)
        monkeypatch.setattr(sys, "argv", ["reslightning", *shlex.split(line)])
        capfd.readouterr()
        try:
            status = main(shlex.split(line))
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return run


def process(line: str, **options: Any) -> subprocess.Popen[str]:
    """Start a command line as a process of its own, also for W&B, whose service of this one it would share."""
    environ = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.Popen(
        [sys.executable, "-m", "reslightning", *shlex.split(line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        **options,
    )


def kill_behind(epochs: int, line: str, run: Path) -> None:
    """Train in a process of its own, and kill it as soon as its summary has so many epochs."""
    child = process(line)
    deadline = time.monotonic() + 120
    while not (run / "summary.json").exists() or json.loads((run / "summary.json").read_text())["epoch"] < epochs:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.kill()
    child.communicate()


@pytest.fixture(scope="session")
def sample() -> list[bytes]:
    """200 of ImageNet's own files."""
    path = SHARED / "data" / "imagenet-sample.tar"
    if not path.is_file():
        pytest.skip(f"needs real ImageNet files: no {path} (RESLIGHTNING_SHARED names the folder elsewhere)")
    with tarfile.open(path) as archive:
        return [archive.extractfile(member).read() for member in archive if member.isfile()]


@pytest.fixture(scope="session")
def cifar_root(tmp_path_factory) -> Path:
    """The real CIFAR-10 in its official binary layout."""
    unpack = SHARED / "data" / "cifar10" / "unpack"
    if not unpack.is_file():
        pytest.skip(f"needs the real CIFAR-10: no {unpack} (RESLIGHTNING_SHARED names the folder elsewhere)")
    root = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, str(unpack), str(root)], check=True, capture_output=True)
    return root


def summary(run: Path) -> dict[str, Any]:
    """Return a run's summary.json."""
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """An undisturbed run of three epochs for each kind of weights, made when first asked for."""
    runs: dict[str, Path] = {}

    def make(cli, extra: str = "") -> Path:
        if extra not in runs:
            run = tmp_path_factory.mktemp("finished") / "run"
            assert cli(f"fit {SMALL} --trainer.max_epochs 3 --run_dir {run} {extra}").status == 0
            runs[extra] = run
        return runs[extra]

    return make


def rows(run: Path) -> list[dict[str, str]]:
    """Return a run's metrics.csv without the one column that depends on the clock."""
    with (run / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        row.pop("images_per_second", None)
        row.pop("data_wait", None)
    return found


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    """Return a run's checkpoint."""
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same_bits(first: Any, second: Any, place: str = "checkpoint") -> None:
    """Assert that two nested structures hold the same values, tensors bit for bit."""
    assert type(first) is type(second), place
    if isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for key in first:
            assert_same_bits(first[key], second[key], f"{place}[{key!r}]")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), place
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same_bits(one, other, f"{place}[{number}]")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), place
    else:
        assert first == second, place


def assert_same_result(run: Path, reference: Path) -> None:
    """Assert that two finished runs have the same weights, optimizer, rows and best values."""
    for name in ("last", "best"):
        one, other = checkpoint(run, name), checkpoint(reference, name)
        for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
            assert (key in one) == (key in other)
            if key in one:
                assert_same_bits(one[key], other[key], f"{name}[{key!r}]")
    assert rows(run) == rows(reference)
