"""What the operating system and libraries raise for a mistake is one message, whatever the command."""

import io
import json
import os
import shlex
import shutil

import pytest
import torch
from PIL import Image

from reslightning.data.sources import INDEX, Source
from tests import images
from tests.conftest import SMALL

LONG = "a" * 300


def refused(result, *words):
    assert result.status == 2, result.err
    assert "reslightning: " in result.err
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


def test_a_variable_of_the_parser_s(cli, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "1")
    refused(cli("fit --model.arch resnet8"), "JSONARGPARSE_DEBUG: 1", "true or false")


@pytest.mark.parametrize("line", ["compare run", "fit --run_dir run", "test --run_dir run", "sync run"])
@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "metrics.csv"])
def test_a_pipe_where_a_file_must_be(cli, tmp_path, monkeypatch, line, name):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    os.mkfifo(tmp_path / "run" / name)
    result = cli(f"{line} --trainer.limit_train_batches 0" if line.startswith("fit") else line)
    assert result.status == (1 if line == "sync run" else 2), result.err


@pytest.mark.parametrize(
    "line",
    [
        "fit --model.optim pipe",
        "fit --data pipe",
        "fit --trainer.callbacks pipe",
        "submit --dry-run --site pipe -- fit",
    ],
)
def test_a_pipe_that_never_ends_is_not_waited_for(cli, tmp_path, line):
    os.mkfifo(tmp_path / "pipe")
    refused(cli(line), "pipe")


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


def test_nodes_that_nothing_starts(cli, tmp_path):
    refused(cli("fit --trainer.num_nodes 2"), "trainer.num_nodes=2", "submit --nodes")
    assert list(tmp_path.iterdir()) == []


COMMANDS = ["fit --run_dir run", "test --run_dir run", "predict --run_dir run", "fit -c run/config.yaml"]


@pytest.mark.parametrize("line", [*COMMANDS, "submit --dry-run -- fit -c run/config.yaml"])
@pytest.mark.parametrize("group", ["model", "data", "trainer"])
def test_a_run_whose_config_is_damaged(cli, tmp_path, line, group):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(f"{group}: null\n")
    refused(cli(line), "run/config.yaml", f"{group} is null")


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.csv", "checkpoints/last.ckpt"])
def test_a_folder_where_a_run_s_file_must_be(cli, tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    refused(cli("fit --run_dir run"), f"run/{name}", "is no file")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_whose_summary_is_damaged(cli, finished, tmp_path):
    shutil.copytree(finished(cli), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").write_text(json.dumps(facts | {"segments": 3}))
    for line in ("fit --run_dir run", "test --run_dir run", "predict --run_dir run", "compare run"):
        result = cli(line)
        assert result.status == 0, result.err
    (tmp_path / "run" / "summary.json").write_text(json.dumps(facts)[:40])
    refused(cli(f"fit {SMALL} --model.weights run"), "summary.json is cut")


def test_what_sbatch_refuses_leaves_nothing(cli, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", ""), ("sbatch", "echo sbatch: error: invalid partition >&2; exit 1")):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    refused(cli("submit -- fit"), "sbatch: error: invalid partition", "Nothing else was queued")
    assert list(tmp_path.iterdir()) == [tools]
    (tmp_path / "submitted" / "mine").mkdir(parents=True)
    (tmp_path / "submitted" / "mine" / "log").touch()
    refused(cli("submit --name mine -- fit"), "sbatch: error: invalid partition")
    assert sorted((tmp_path / "submitted").rglob("*")) == [
        tmp_path / "submitted" / "mine",
        tmp_path / "submitted" / "mine" / "log",
    ]


def test_a_filter_with_two_signs(cli, finished):
    run = finished(cli)
    assert cli(f"compare {run} --filter arch==resnet8").out == cli(f"compare {run} --filter arch=resnet8").out
    refused(cli(f"compare {run} --filter arch==resnet20"), "none of the 1 runs")


@pytest.mark.parametrize(("before", "behind"), [("backbone_", ""), ("", ".module")])
def test_foreign_weights_that_differ_in_one_part(cli, finished, tmp_path, before, behind):
    weights = torch.load(finished(cli) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    names = {name.removeprefix("model."): value for name, value in weights.items()}
    torch.save({f"{before}{name}{behind}": value for name, value in names.items()}, tmp_path / "foreign.pt")
    result = cli(f"fit {SMALL} --model.weights foreign.pt")
    refused(result, repr(before or behind), "names differ", "more")
    assert len(result.err.splitlines()) < 16


def test_classes_directly_under_the_root(cli, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (32, 32)).save(tmp_path / "pets" / name / f"{number}.png")
    result = cli("fit --data ImageFolder --data.root pets")
    refused(result, "your classes are here", "cat, dog", "--data.val_split N")
    way = shlex.split(result.err.partition("train/ in it, ")[2].partition(", and give")[0])
    assert way[:3] == ["mkdir", "NEW", "&&"]
    (tmp_path / "NEW").mkdir()
    (tmp_path / "NEW" / "train").symlink_to(way[-2])
    options = (
        "--data.val_split 1 --data.batch_size 1 --trainer.fast_dev_run 1 --model.arch resnet8 --wandb.mode disabled"
    )
    result = cli(f"fit --data ImageFolder --data.root NEW {options} --data.train_size 32 --data.num_workers 0")
    assert result.status == 0, result.err


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ("", ("cat",)),
        ("--data ImageNet", ("cat", "dog")),
        ("--data.batch_size 100", ("cat", "dog")),
        ("--data.val_split 99", ("cat", "dog")),
        ("--model.frozen_stages 9 --data.index_dir new/folder", ("cat", "dog")),
        ("--model.weights nowhere.pt", ("cat", "dog")),
        ("--ckpt_path nowhere.ckpt", ("cat", "dog")),
        ("--trainer.limit_train_batches 0.01", ("cat", "dog")),
    ],
)
def test_what_is_refused_leaves_no_index(cli, tmp_path, options, classes):
    images.tree(tmp_path / "images", classes=classes, train=4)
    before = sorted(tmp_path.rglob("*"))
    line = f"fit --data ImageFolder --data.root images --data.batch_size 2 --wandb.mode disabled {options}"
    refused(cli(line))
    assert sorted(tmp_path.rglob("*")) == before


def test_an_index_stays_once_its_images_were_read(cli, tmp_path):
    root = images.tree(tmp_path / "images", classes=("cat", "dog"), train=4)
    os.truncate(next((root / "val").rglob("*.JPEG")), 600)
    refused(
        cli(
            "fit --data ImageFolder --data.root images --data.batch_size 2 --data.train_size 32 --model.arch resnet8 "
            "--wandb.mode disabled --data.num_workers 0"
        ),
        "corrupt image",
    )
    assert (root / INDEX).is_file()


def test_a_place_that_cannot_be_is_not_taken_for_a_lack_of_internet(cli):
    result = cli("fetch cifar10 --to /proc/nowhere")
    refused(result, "/proc/nowhere cannot be used")
    assert "internet" not in result.err


def test_a_picture_of_three_rows_is_scaled_to_one(cli, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "images" / split / "line").mkdir(parents=True)
        Image.new("RGB", (8000, 3)).save(tmp_path / "images" / split / "line" / "x.png")
    assert cli("pack images packed --max-side 100").status == 0
    with Image.open(io.BytesIO(Source(tmp_path / "packed").read("train", 0))) as picture:
        assert picture.size == (100, 1)
