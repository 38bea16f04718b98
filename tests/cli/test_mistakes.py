"""What the operating system and libraries raise for a mistake is one message, whatever the command."""

import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("compare --by ''", "--by"),
        ("compare --columns=", "--columns"),
        ("compare ''", "what is given"),
        ("submit --dry-run --partition '' -- fit", "--partition"),
        ("submit --dry-run --logs= -- fit", "--logs"),
        ("fetch cifar10 --to ''", "--to"),
        ("doctor --stage-to ''", "--stage_to"),
        ("models resnet20 --version=", "--version"),
        ("sync ''", "what is given"),
    ],
)
def test_what_is_empty_is_asked_about(cli, tmp_path, line, name):
    refused(cli(line), f"{name} is empty", "a variable that is not set")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("models resnet20 --num_classes 0", "--num_classes=0 is not allowed"),
        ("models resnet20 --num_classes -1", "--num_classes=-1 is not allowed"),
        ("models resnet020", "did you mean 'resnet20'"),
        ("fit --model.arch resnet\uff12\uff10", "unknown architecture"),
        ("fetch torchvision:resnet20 --to x", "torchvision has no weights for 'resnet20'"),
        ("fetch torchvision:RESNET18 --to x", "for 'RESNET18'; did you mean 'resnet18'"),
        ("sync --timeout 0", "--timeout=0 is not allowed"),
        ("sync --timeout -5", "--timeout=-5 is not allowed"),
    ],
)
def test_values_that_mean_nothing(cli, tmp_path, line, said):
    refused(cli(line), said)
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fit --trainer.enable_checkpointing false", "trainer.enable_checkpointing=false would not count"),
        ("fit --trainer.callbacks=-", "trainer.callbacks"),
        ("fit --trainer.min_steps 5", "trainer.min_steps is not supported"),
        ("fit --trainer.log_every_n_steps -1", "trainer.log_every_n_steps=-1 is out of range"),
        ("doctor --devices 0", "--devices=0 is not allowed"),
        ("doctor --num_nodes -1", "--num_nodes=-1 is not allowed"),
        ("fit --trainer '{detect_anomaly: null}'", "trainer.detect_anomaly=null is not allowed"),
        ("submit --dry-run --grid model.arch=resnet20, -- fit", "an empty value"),
        ("submit --dry-run --time 99x -- fit", "time=99x is not allowed"),
        ("submit --dry-run --mem lots -- fit", "mem=lots is not allowed"),
        ("submit --dry-run --cpus 0 -- fit", "cpus-per-task=0 is not allowed"),
        ("submit --dry-run --cpus many -- fit", "cpus-per-task=many is not allowed"),
        (f"submit --dry-run --segments {10**16} -- fit", f"segments={10**16} is out of range"),
        ("submit --dry-run --name ../x -- fit", "--name '../x'"),
        ("fit -c overlays/finetune", "To train from scratch instead"),
    ],
)
def test_what_would_not_count_is_refused(cli, tmp_path, line, said):
    refused(cli(line), said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("trainer.detect_anomaly: null", "trainer.detect_anomaly=null is not allowed\nallowed: true or false"),
        ("trainer: {devices: null}", "trainer.devices=null is not allowed"),
        ("trainer.overfit_batches: null", "trainer.overfit_batches=null is out of range"),
        ("model: {zero_init_residual: null}", "model.zero_init_residual=null is not allowed"),
        ("model.optim.lr: null", "model.optim.lr=null is not allowed"),
        ("model: {optim: null}", "mine.yaml: model.optim is null"),
        ("model.schedule: 3", "mine.yaml: model.schedule is 3"),
        ("data: {crop_padding: null}", "data.crop_padding=null is not allowed"),
        ("data: {class_path: null}", "allowed: Digits, CIFAR10"),
        ("data.val_split: 1.5", "data.val_split=1.5 is not allowed"),
        ("wandb: {tags: null}", "wandb.tags=null is not allowed"),
        ("seed_everything: null", "seed_everything=null is not allowed\nallowed: a whole number"),
        ("fresh: maybe", "fresh=maybe is not allowed"),
        ("checkpoint_minutes: -1", "checkpoint_minutes=-1 is out of range"),
        ("[1, 2]: 3", "mine.yaml, line 1: a list or mapping is no name"),
    ],
)
def test_a_config_s_value_that_cannot_be(cli, tmp_path, config, said):
    (tmp_path / "mine.yaml").write_text(config)
    refused(cli("fit --wandb.mode disabled -c mine.yaml"), said)
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.yaml"]


def test_a_fresh_run_s_checkpointing_alone_is_asked_about(cli, finished, tmp_path):
    """A run begun before goes on with what its config says."""
    shutil.copytree(finished(cli), tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("enable_checkpointing: null", "enable_checkpointing: false"))
    assert "nothing to do" in cli("fit --run_dir run").out


@pytest.mark.parametrize("limit", ["60", "4:00", "0-4", "1-00:30:00", "04:00:00", "UNLIMITED"])
def test_sbatch_s_forms_are_taken(cli, limit):
    assert f"--time={limit}" in cli(f"submit --dry-run --time {limit} --mem 120G --cpus 4 -- fit").out


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


@pytest.mark.parametrize(("before", "behind"), [("backbone.", ""), ("", ".module")])
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
    ("line", "said"),
    [
        ("fit --model.optm.lr 1", "did you mean 'model.optim.lr'"),
        ("test --model.arch resnet21", "the nearest are resnet20 and resnet26"),
        ("fit --data CIFAR11", "did you mean 'CIFAR10'"),
        ("fit --data.batch_size 0", "data.batch_size=0 is out of range; allowed: 1 or more"),
        ("fit --data.batch_size=x", "data.batch_size=x is not allowed"),
        ("fit --model.optim.lr -1e-3", "model.optim.lr=-0.001 is out of range"),
        ("fit --model.schedule.name cosin", "did you mean 'cosine'"),
        ("fit --trainer.max_epochs 0", "trainer.max_epochs=0 is out of range"),
        ("validate --seed_everything 4294967296", "seed_everything=4294967296 is out of range"),
        ("fit -c mine.yaml", "model.shortcut=D is not allowed"),
    ],
)
def test_what_is_known_without_torch_is_said_at_once(cli, tmp_path, monkeypatch, line, said):
    monkeypatch.delitem(sys.modules, "torch")  # as in a process that has just begun
    (tmp_path / "mine.yaml").write_text("model: {shortcut: D}")
    refused(cli(line), said)
    assert "loading" not in cli(line).err


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


@pytest.mark.parametrize("line", ["fit --data.train_size 64", "fit --data CIFAR10 -c mine.yaml"])
def test_an_option_of_another_data_set_leads_to_it(cli, tmp_path, line):
    (tmp_path / "mine.yaml").write_text("data: {train_size: 64}")
    refused(cli(line), "data.train_size is no option of this data set", "--data ImageNet, ImageFolder")


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
