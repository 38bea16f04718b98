"""Drawn command lines end as they should, faults that are planted are seen, and what failed once does not again."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from reslightning.__main__ import COMMANDS
from reslightning.commands import compare, models
from reslightning.errors import UserError
from reslightning.train.optim import OPTIMIZERS
from tests.fuzz import child
from tests.fuzz.cases import SHORT, SMALL, Case, case, typed
from tests.fuzz.child import prepare, run
from tests.fuzz.verdict import check, verdict

SEED = int(os.environ.get("FUZZ_SEED", "13"))
FIT = f"fit {SMALL} {SHORT['fit']}"

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the child starts no thread's work anew


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("fuzz"))


def assert_right(numbers: range, scene: Path, folder: Path, **options: bool) -> None:
    """Assert that cases end as they should; what does not is shown by seed and number, and as a command line."""
    print(f"seed {SEED}")
    found = list(check(SEED, numbers, scene, folder, **options))
    wrong = [f"seed {SEED} case {number}: {line}\n{drawn}" for number, drawn, lines in found for line in lines]
    assert not wrong, "\n\n".join(wrong)


def test_drawn_cases_end_as_they_should(scene, tmp_path):
    assert_right(range(30), scene, tmp_path)


@pytest.mark.slow
def test_300_cases_end_as_they_should(scene, tmp_path):
    assert_right(range(30, 330), scene, tmp_path)


@pytest.mark.slow
def test_100_processes_end_as_they_should(scene, tmp_path):
    assert_right(range(330, 430), scene, tmp_path, process=True)


def test_every_command_and_option_is_drawn_the_same_each_time():
    drawn = [case(SEED, number) for number in range(4000)]
    assert [case(SEED, number) for number in range(0, 4000, 400)] == drawn[::400]
    assert {one.words[0] for one in drawn} >= COMMANDS.keys()
    for command in COMMANDS:
        given = {name for one in drawn if one.words[0] == command for name, _ in one.given}
        missing = typed(command).keys() - given
        assert len(missing) <= len(typed(command)) / 2, missing
    given = {name for one in drawn for name, _ in one.given}
    assert given >= typed("fit", "ImageNet").keys()
    words = {word for one in drawn for word in one.words}
    assert words >= {"-c", "-cmine.yaml", "-c=mine.yaml", "--config", "--config=mine.yaml"}


def judged(line: str, scene: Path, folder: Path, given: list[tuple[str, str]] | None = None) -> str:
    """Return what is wrong with how a command line ended."""
    one = Case(shlex.split(line), given or [])
    return "\n".join(verdict(one, run(one, scene, folder)))


def crash() -> None:
    raise ZeroDivisionError("division by zero")


def leave() -> None:
    Path("left.txt").write_text("half")
    raise UserError("resnet9 is no network")


def spoil() -> None:
    Path("text.txt").write_text("half")
    raise UserError("resnet9 is no network")


def say_nothing() -> None:
    raise UserError("this is not allowed\nallowed: something else")


def say_twice() -> None:
    print("reslightning: resnet9", file=sys.stderr)
    raise UserError("resnet9 is no network")


FAULTS = [
    (crash, "traceback: ZeroDivisionError: division by zero"),
    (leave, "left left.txt"),
    (spoil, "changed text.txt"),
    (say_nothing, "the message names nothing that was given"),
    (say_twice, "not one message"),
    (lambda: os.kill(os.getpid(), signal.SIGSEGV), "ended with status -11"),
    (lambda: os._exit(3), "ended with status 3"),
    (lambda: time.sleep(30), "did not end within"),
]


@pytest.mark.parametrize(("fault", "seen"), FAULTS)
def test_a_planted_fault_is_seen(scene, tmp_path, monkeypatch, fault, seen):
    monkeypatch.setattr(child, "SECONDS", 2.0)
    monkeypatch.setattr(models, "main", lambda argv: fault())
    assert judged("models resnet9", scene, tmp_path, [("", "resnet9")]).startswith(seen)


def test_a_fault_is_seen_by_cases_that_are_drawn(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "main", lambda argv: crash())
    number = next(number for number in range(1000) if case(SEED, number).words[0] == "models")
    (_, _, wrong), *_ = check(SEED, range(number, number + 1), scene, tmp_path)
    assert "ZeroDivisionError" in wrong[0]


def test_an_option_that_the_optimizer_does_not_get_is_seen(scene, tmp_path, monkeypatch):
    line, given = f"{FIT} --model.optim.momentum 0.5", [("model.optim.momentum", "0.5")]
    assert judged(line, scene, tmp_path / "used", given) == ""
    forgetful = OPTIMIZERS["sgd"]._replace(make=lambda groups, optim: torch.optim.SGD(groups))
    monkeypatch.setitem(OPTIMIZERS, "sgd", forgetful)
    assert "momentum=0.5 is 0 in the optimizer" in judged(line, scene, tmp_path / "unused", given)


def test_an_option_that_is_missing_in_the_configuration_is_seen(scene, tmp_path):
    line, given = f"fit {SMALL} --print_config", [("trainer.min_epochs", "3")]
    assert judged(line, scene, tmp_path, given) == "trainer.min_epochs=3 is 'None'"


def test_a_file_that_is_not_written_is_seen(scene, tmp_path, monkeypatch):
    line, given = "compare run --plot x.svg", [("plot", "x.svg")]
    assert judged(line, scene, tmp_path / "used", given) == ""
    monkeypatch.setattr(compare, "plot", lambda *_, **__: None)
    assert judged(line, scene, tmp_path / "unused", given) == "plot=x.svg was not written"
