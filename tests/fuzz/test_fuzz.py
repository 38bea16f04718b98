"""Drawn command lines end as they should, faults that are planted are seen, and what failed once does not again."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from reslightning.__main__ import COMMANDS
from reslightning.commands import compare, models
from reslightning.errors import UserError
from reslightning.train.optim import OPTIMIZERS
from tests.fuzz.cases import SHORT, SMALL, Case, case, typed
from tests.fuzz.child import prepare, run
from tests.fuzz.server import Server
from tests.fuzz.verdict import check, verdict

SEED = int(os.environ.get("FUZZ_SEED", "13"))
FIT = f"fit {SMALL} {SHORT['fit']}"


@pytest.fixture(scope="session")
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="session")
def scene(server, tmp_path_factory):
    return server(prepare, tmp_path_factory.mktemp("fuzz"))


def assert_right(server: Server, numbers: range, scene: Path, folder: Path, **options: bool) -> None:
    """Assert that cases end as they should; what does not is shown by seed and number, and as a command line."""
    print(f"seed {SEED}")
    found = server(check, SEED, numbers, scene, folder, **options)
    wrong = [f"seed {SEED} case {number}: {line}\n{drawn}" for number, drawn, lines in found for line in lines]
    assert not wrong, "\n\n".join(wrong)


def test_drawn_cases_end_as_they_should(server, scene, tmp_path):
    assert_right(server, range(30), scene, tmp_path)


@pytest.mark.slow
def test_300_cases_end_as_they_should(server, scene, tmp_path):
    assert_right(server, range(30, 330), scene, tmp_path)


@pytest.mark.slow
def test_100_processes_end_as_they_should(server, scene, tmp_path):
    assert_right(server, range(330, 430), scene, tmp_path, process=True)


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


def judged(
    server: Server, line: str, scene: Path, folder: Path, given: list[tuple[str, str]] | None = None, **options: Any
) -> str:
    """Return what is wrong with how a command line ended."""
    one = Case(shlex.split(line), given or [])
    return "\n".join(verdict(one, server(run, one, scene, folder, **options)))


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
    (partial(os.kill, 0, signal.SIGSEGV), "ended with status -11"),
    (partial(os._exit, 3), "ended with status 3"),
    (partial(time.sleep, 30), "did not end within"),
]


def plant(fault: Callable[[], None]) -> None:
    models.main = lambda argv: fault()


@pytest.mark.parametrize(("fault", "seen"), FAULTS)
def test_a_planted_fault_is_seen(server, scene, tmp_path, fault, seen):
    given, planted = [("", "resnet9")], partial(plant, fault)
    assert judged(server, "models resnet9", scene, tmp_path, given, seconds=2.0, plant=planted).startswith(seen)


def test_a_fault_is_seen_by_cases_that_are_drawn(server, scene, tmp_path):
    number = next(number for number in range(1000) if case(SEED, number).words[0] == "models")
    planted = partial(plant, crash)
    (_, _, wrong), *_ = server(check, SEED, range(number, number + 1), scene, tmp_path, plant=planted)
    assert "ZeroDivisionError" in wrong[0]


def forget_momentum() -> None:
    OPTIMIZERS["sgd"] = OPTIMIZERS["sgd"]._replace(make=lambda groups, optim, fused: torch.optim.SGD(groups))


def test_an_option_that_the_optimizer_does_not_get_is_seen(server, scene, tmp_path):
    line, given = f"{FIT} --model.optim.momentum 0.5", [("model.optim.momentum", "0.5")]
    assert judged(server, line, scene, tmp_path / "used", given) == ""
    wrong = judged(server, line, scene, tmp_path / "unused", given, plant=forget_momentum)
    assert "momentum=0.5 is 0 in the optimizer" in wrong


def test_an_option_that_is_missing_in_the_configuration_is_seen(server, scene, tmp_path):
    line, given = f"fit {SMALL} --print_config", [("trainer.min_epochs", "3")]
    assert judged(server, line, scene, tmp_path, given) == "trainer.min_epochs=3 is 'None'"


def draw_nothing() -> None:
    compare.plot = lambda *_, **__: None


def test_a_file_that_is_not_written_is_seen(server, scene, tmp_path):
    line, given = "compare run --plot x.svg", [("plot", "x.svg")]
    assert judged(server, line, scene, tmp_path / "used", given) == ""
    wrong = judged(server, line, scene, tmp_path / "unused", given, plant=draw_nothing)
    assert wrong == "plot=x.svg was not written"


LOST = "would not count beside"
# What failed once: a command line, the config mine.yaml that it finds, and what its message must hold.
KEPT = [
    (
        "-c mine.yaml",
        "trainer.gradient_clip_val: 2\ntrainer: {min_epochs: 1}",
        f"trainer.gradient_clip_val with dots {LOST}",
    ),
    ("-c mine.yaml", "model:\n  optim.momentum: 0.5\n  optim: {lr: 0.3}", f"model.optim.momentum with dots {LOST}"),
    ("-c mine.yaml", "data: CIFAR10\ndata.batch_size: 7", f"data.batch_size with dots {LOST}"),
    ("-c mine.yaml", "data: {class_path: CIFAR10}\ndata.init_args.batch_size: 7", LOST),
    ("-c mine.yaml --print_config", "trainer.ma_epochs: 42", "'trainer.ma_epochs'; did you mean 'trainer.max_epochs'"),
    (
        "--trainer.plugins mine.yaml",
        "model.optim.name: sgd",
        "trainer.plugins={'model.optim.name': 'sgd'} is not allowed",
    ),
    ("--trainer.profiler nope", "", "given: trainer.profiler=nope"),
    ("--data ImageNet -c mine.yaml", "data: {eval_size: 64}", "Give the images' place as --data.root"),
    ("--data CIFAR10 --data.root loop", "", "Give a place whose links end somewhere."),
    ("--data.crop_padding 4294967296", "", "memory does not suffice"),
    ("--data.crop_padding 9223372036854775808", "", "too large to count with: 9223372036854775808"),
    ("--trainer.devices=9223372036854775808", "", "trainer.devices=9223372036854775808 is out of range"),
    ("--trainer.devices 4294967296 --trainer.fast_dev_run true", "", "trainer.devices=4294967296 is out of range"),
    ("--trainer.max_time 00:01:00:00", "", "given: 00:01:00:00"),
]


@pytest.mark.parametrize(("options", "config", "said"), KEPT)
def test_what_failed_once_does_not_again(server, scene, tmp_path, options, config, said):
    one = Case(["fit", *shlex.split(options)], files={"mine.yaml": config})
    ended = server(run, one, scene, tmp_path)
    assert (ended.status, ended.before) == (2, ended.after), ended.err
    assert said in ended.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bench train --steps=-inf --steps 1", "--steps=-inf is not allowed"),
        (
            "pack images out --quality 200 --quality 20",
            "--quality=200 is not allowed; allowed: a whole number, 1 to 100",
        ),
    ],
)
def test_the_value_that_is_refused_is_named_not_a_later_one(cli, line, said):
    assert said in cli(line).err


@pytest.mark.parametrize("nodes", ["2", "9223372036854775808"])
def test_predict_does_not_wait_for_nodes_that_nothing_starts(server, scene, tmp_path, nodes):
    ended = server(run, Case(shlex.split(f"predict --run_dir run --trainer.num_nodes {nodes}")), scene, tmp_path)
    assert (ended.status, ended.before) == (2, ended.after), ended.err
    assert f"trainer.num_nodes={nodes}, but this is no Slurm job" in ended.err


@pytest.mark.parametrize("place", ["text.txt", "loop"])
def test_a_source_is_not_indexed_where_its_tars_cannot_lie(server, scene, tmp_path, place):
    ended = server(run, Case(["pack", "images", place]), scene, tmp_path)
    assert (ended.status, ended.before) == (2, ended.after), ended.err
    assert place in ended.err


def test_a_config_may_have_dots_behind_its_groups(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "trainer: {min_epochs: 3}\ntrainer.gradient_clip_val: 2.5\ndata.batch_size: 7\n"
    )
    result = cli("fit -c mine.yaml --print_config")
    assert result.status == 0, result.err
    assert all(f"{text}\n" in result.out for text in ("min_epochs: 3", "gradient_clip_val: 2.5", "batch_size: 7"))
