"""What is said fits a terminal, steers none, and goes where there is room for it."""

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.test_mistakes import refused
from tests.conftest import SMALL


def test_output_that_is_full(cli, monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        refused(cli("models"), "the output cannot be written: No space left")


def test_a_training_does_not_end_with_the_room_for_its_output(cli, tmp_path, monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli(f"fit {SMALL} --trainer.max_epochs 1 --run_dir run").status == 0
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        refused(cli("fit --print_config"), "the output cannot be written: No space left")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def test_output_in_ascii(cli, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert cli("models").status == 0
    out.flush()
    assert b"(arXiv:1512.03385" in out.buffer.getvalue()
    err = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", err)
    assert cli("compare é").status == 2
    err.flush()
    assert rb"\xe9, which does not exist" in err.buffer.getvalue()


def test_names_do_not_steer_the_terminal(cli, tmp_path):
    refused(cli("compare '\x1b[31mred'"), r"\x1b[31mred")
    run = tmp_path / "\x1b[2Jrun"
    run.mkdir()
    (run / "summary.json").write_text('{"run_id": "a", "identity": "b", "format": 1, "arch": "\\u001b[31mred"}')
    out = cli("compare .").out
    assert "\x1b" not in out
    assert r"\x1b[2Jrun" in out


@pytest.mark.parametrize(
    ("line", "said"), [("fit", True), ("test --verbose false", True), ("fit --print_config", False)]
)
def test_loading_is_said_in_a_terminal(cli, monkeypatch, line, said):
    stand_in = SimpleNamespace(CLI=lambda argv: None, quiet=contextlib.nullcontext)
    monkeypatch.setitem(sys.modules, "reslightning.cli.lightning_cli", stand_in)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert (cli(line).err == "loading torch and Lightning\n") == said


def test_a_terminal_of_80_columns(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    line = f"fit {SMALL} --trainer.max_epochs 2 --run_dir run"
    result = cli(line)
    assert result.status == 0, result.err
    again = cli(line).out
    said = [part for text in (result.out, again) for part in re.split(r"[\r\n]", text)]
    assert all(len(part) <= 80 for part in said if "it/s" not in part and "?" not in part)
    shown = result.out + result.err
    assert "epoch 2/2:" in shown
    assert "epoch 0" not in shown.lower()
    assert "v_num" not in shown
    assert "multiply-adds" in result.out.split()
    assert "finished: 2 epochs" in again
