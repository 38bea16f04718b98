"""A reader that goes away, `head` or a terminal, ends no command."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL, process, summary


def pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def terminal() -> int:
    reader, writer = pty.openpty()
    os.close(reader)
    return writer


@pytest.fixture(params=[pipe, terminal])
def unread(request, monkeypatch):
    """Give a command streams that nobody reads."""
    opened = []

    def leave(*streams: str) -> None:
        for name in streams:
            opened.append(os.fdopen(request.param(), "w", buffering=1))
            monkeypatch.setattr(sys, name, opened[-1])

    yield leave
    monkeypatch.undo()
    for stream in opened:
        stream.close()


def test_a_training_goes_on_to_its_end(cli, unread):
    line = f"fit {SMALL} --trainer.max_epochs 1 --run_dir {Path.cwd()}/run"
    unread("stdout", "stderr")
    assert cli(line).status == 0
    found = summary(Path("run"))
    assert (found["status"], found["epoch"]) == ("finished", 1)
    assert cli(f"test --run_dir {Path.cwd()}/run").status == 0
    assert list(Path("run/evaluations").glob("test*.json"))


def test_a_mistake_keeps_its_status(cli, unread):
    unread("stdout", "stderr")
    assert cli("fit --model.arch resnet9").status == 2
    assert cli("models").status == 0


def test_a_reader_of_one_line(tmp_path):
    child = process(f"fit {SMALL} --trainer.max_epochs 2 --run_dir {tmp_path}/run")
    assert "a new run" in child.stdout.readline()
    child.stdout.close()
    assert child.wait(120) == 0
    assert summary(tmp_path / "run")["status"] == "finished"


def test_a_closed_output(cli, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli(f"fit {SMALL} --trainer.max_epochs 1 --run_dir run").status == 0
    assert summary(Path("run"))["status"] == "finished"
