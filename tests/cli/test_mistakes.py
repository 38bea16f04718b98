"""What the operating system and libraries raise for a mistake is one message, whatever the command."""

import io
import itertools
import os
import sys
from pathlib import Path

import pytest

LONG = "a" * 300


def refused(result, *words):
    assert result.status == 2, result.err
    assert result.err.startswith("reslightning: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err, result.err


PATHS = [
    "compare {}",
    "sync {}",
    "fit --run_dir {}",
    "test --run_dir {}",
    "fit -c {}",
    "fit --model.weights {}",
    "fit --data CIFAR10 --data.root {}",
    "pack {} out",
    "fetch cifar10 --to {}",
    "submit --dry-run --logs {} -- fit",
    "submit --dry-run --site {} -- fit",
]


@pytest.mark.parametrize("line", PATHS)
@pytest.mark.parametrize("path", [LONG, "~nosuchuser/x", "'a\0b'"], ids=["long", "user", "zero"])
def test_a_path_that_cannot_be(cli, tmp_path, line, path):
    refused(cli(line.format(path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "status"), [(LONG, 1), ("FILE/x", 1), ("~nosuchuser/x", 2), ("'a\0b'", 2)])
def test_the_doctor_sees_a_path_that_cannot_be(cli, tmp_path, path, status):
    (tmp_path / "FILE").touch()
    result = cli(f"doctor --run_dir {path}")
    assert result.status == status
    assert "cannot be written" in result.out or status == 2


@pytest.mark.parametrize("line", ["compare", "fit", "sync", "submit --dry-run -- fit"])
def test_a_working_folder_that_is_gone(cli, tmp_path, line):
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused(cli(line), "the working folder is gone", "cd")


@pytest.mark.parametrize(
    "line",
    ["fit --run_dir FILE/x", "fetch cifar10 --to FILE", "fetch cifar10 --to FILE/x", "submit --logs FILE -- fit"],
)
def test_a_file_where_a_folder_must_be(cli, tmp_path, line):
    (tmp_path / "FILE").touch()
    refused(cli(line), "FILE")
    assert list(tmp_path.iterdir()) == [tmp_path / "FILE"]


@pytest.mark.parametrize("line", ["compare run", "fit --run_dir run", "test --run_dir run", "sync run"])
@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "metrics.csv"])
def test_a_pipe_where_a_file_must_be(cli, tmp_path, line, name):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    os.mkfifo(tmp_path / "run" / name)
    assert cli(f"{line} --trainer.limit_train_batches 0" if line.startswith("fit") else line).status in (1, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
                for before, after in itertools.pairwise("abcdefghi")
            ),
            "aliases",
        ),
        ("model: &a {arch: resnet20, optim: *a}\n", "alias"),
        ("trainer: {callbacks: &a [1, *a]}\n", "alias"),
        ("a: " + 3000 * "[", "nested too deeply"),
    ],
    ids=["bomb", "mapping", "list", "deep"],
)
def test_yaml_that_does_not_end(cli, tmp_path, text, words):
    (tmp_path / "one.yaml").write_text(text)
    refused(cli("fit -c one.yaml"), "one.yaml", words)


@pytest.mark.parametrize("depth", [100000003, 100000004, 10**24])
@pytest.mark.parametrize("line", ["models resnet{}", "fit --model.arch resnet{}"])
def test_a_depth_that_nobody_can_train(cli, tmp_path, line, depth):
    refused(cli(line.format(depth)), f"resnet{depth}", "resnet20000")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("fit --data.num_workers 100000", "[0, 1024]"),
        ("fit --data ImageFolder --data.train_size 1000000", "[1, 4096]"),
        ("fit --data ImageFolder --data.eval_resize 1000000", "[1, 4096]"),
        (f"fit --data.batch_size {10**12}", "at most 1438"),
    ],
)
def test_sizes_that_no_machine_has_memory_for(cli, tmp_path, line, allowed):
    refused(cli(line), line.rpartition(" ")[2], allowed)
    assert list(tmp_path.iterdir()) == []


def test_memory_that_does_not_suffice(cli, monkeypatch):
    def models(*_):
        raise MemoryError

    monkeypatch.setattr("reslightning.commands.models.list_architectures", models)
    refused(cli("models"), "memory does not suffice")


def test_a_mistake_of_the_package_s_own_stays_one(cli, monkeypatch):
    def models(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("reslightning.commands.models.list_architectures", models)
    with pytest.raises(ZeroDivisionError):
        cli("models")


def test_output_that_is_full(cli, monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        refused(cli("models"), "the output cannot be written: No space left")


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
