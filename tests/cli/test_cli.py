"""What a command line means, and what it answers to a mistake."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from reslightning.cli.configs import available_configs
from tests.conftest import SMALL

ROOT = Path(__file__).parents[2]


def printed(result) -> dict:
    assert result.status == 0, result.err
    return yaml.safe_load(result.out)


@pytest.mark.parametrize(
    "line",
    [
        "fit --model.arch plain20 -c cifar10 --print_config",
        "fit -c cifar10 --model.arch plain20 --print_config",
        "fit --print_config --model.arch=plain20 --config=cifar10",
    ],
)
def test_flags_win_wherever_they_stand(cli, line):
    config = printed(cli(line))
    assert config["model"]["arch"] == "plain20"
    assert config["data"]["class_path"] == "reslightning.data.CIFAR10"
    assert config["model"]["schedule"]["milestones"] == [32000, 48000]


def test_among_configs_the_later_wins(cli):
    config = printed(cli("fit -c cifar10 -c overlays/fast --print_config"))
    assert config["model"]["schedule"]["name"] == "one_cycle"
    assert config["data"]["init_args"] == config["data"]["init_args"] | {"batch_size": 128, "padding_mode": "reflect"}


def test_without_a_config_the_data_sets_own_is_taken(cli):
    assert printed(cli("fit --print_config"))["data"]["class_path"] == "reslightning.data.Digits"
    config = printed(cli("fit --data CIFAR100 --print_config"))
    assert (config["data"]["class_path"], config["trainer"]["max_epochs"]) == ("reslightning.data.CIFAR100", 164)


def test_configs_in_the_working_folder_come_first(cli, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("model: {arch: resnet32}\n")
    assert printed(cli("fit -c mine --print_config"))["model"]["arch"] == "resnet32"


@pytest.mark.parametrize("name", available_configs())
def test_every_config_parses_and_says_its_command(cli, name):
    base = "-c cifar10 " if name.startswith("overlays/") else ""
    assert cli(f"fit {base}-c {name} --print_config").status == 0
    text = (ROOT / "configs" / f"{name}.yaml").read_text()
    assert text.startswith("# reslightning fit -c")
    assert len(text.splitlines()) <= 30


MISTAKES = [
    ("fit --model.archh resnet20", "unknown option 'model.archh'; did you mean 'model.arch'"),
    ("fit --trainer.max_epoch 3", "did you mean 'trainer.max_epochs'"),
    ("fit --seed 3", "did you mean 'seed_everything'"),
    ("fit --model.sh A", "unknown option 'model.sh'"),
    ("fit --data CIFAR01", "unknown data set 'CIFAR01'; did you mean 'CIFAR10'"),
    ("fit --data foo.Bar", "unknown data set 'foo.Bar'"),
    ("fit --data CIFAR10 --data.rooot x", "unknown option 'data.rooot'; did you mean 'data.root'"),
    ("fit --model.shortcut 3", "model.shortcut=3 is not allowed\nallowed: A, B, C"),
    ("fit --model.schedule.name steps", "did you mean 'step'"),
    ("fit --model.optim.lr abc", "allowed: a number"),
    ("fit --data.batch_size 7.5", "allowed: a whole number"),
    ("fit --model.arch resnet21", "resnet20 and resnet26"),
    ("fit --model.optim.lr -1", "a positive number"),
    ("fit --trainer.accelerator gpuu", "gpuu"),
    ("fit --trainer.devices x", "devices"),
    ("fit --trainer.max_steps 3", "trainer.max_epochs"),
    ("fit --trainer.max_time 00:01:00:00", "trainer.max_epochs"),
    ("fit --trainer.val_check_interval 0.5", "behind whole epochs"),
    ("fit --trainer.max_epochs -1", "trainer.max_epochs=-1 is out of range; allowed: epochs, 1 or more"),
    ("fit --data.val_split 1 --trainer.devices 2 --trainer.accelerator cpu", "fewer than the 2 processes"),
    ("fit --ckpt_path nowhere.ckpt", "no checkpoint at nowhere.ckpt"),
    ("models --shortcutt A", "did you mean '--shortcut'"),
    ("bench dta", "did you mean 'data'"),
    ("bench data --rounds 0", "above zero"),
    ("fit --seed_everything true", "a whole number"),
    ("fit -c cifar", "did you mean 'cifar10'"),
    ("fit --data CIFAR10 --data.root /nowhere", "no CIFAR10 under /nowhere"),
    ("fit --data.batch_size 100 --trainer.devices 3 --trainer.accelerator cpu", "use 99 or 102"),
    ("test", "test needs weights"),
    ("test --run_dir nowhere", "no run directory"),
    ("predict --model.weights nowhere.pt --output x.csv", "no weights at nowhere.pt"),
    ("fitt", "did you mean 'fit'"),
]


@pytest.mark.parametrize(("line", "said"), MISTAKES)
def test_a_mistake_is_one_short_message_and_leaves_nothing(cli, tmp_path, line, said):
    result = cli(line)
    assert result.status == 2
    assert said in result.err
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) <= 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model:\n  arch: resnet20\n   optim: 3\n", "mine.yaml, line 3"),
        ("model: {archh: resnet20}\n", "did you mean 'model.arch'"),
        ("data: {class_path: CIFAR10, init_args: {batchsize: 4}}\n", "did you mean 'data.batch_size'"),
        ("just words\n", "holds no options"),
    ],
)
def test_a_mistake_in_a_config(cli, tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    result = cli("fit -c mine.yaml")
    assert result.status == 2
    assert said in result.err
    assert len(result.err.splitlines()) <= 4


def test_weights_that_do_not_fit(cli, tmp_path):
    assert cli(f"fit {SMALL} --trainer.max_epochs 1 --run_dir run").status == 0
    result = cli("test --model.arch resnet14 --model.weights run")
    assert result.status == 2
    assert "missing     layer1.1.conv1.weight [16, 16, 3, 3]" in result.err


def test_help_answers_at_once_and_without_torch():
    started = time.monotonic()
    code = "import sys; from reslightning.__main__ import main; main(['--help']); main(['models'])"
    code += "; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert time.monotonic() - started < 1.5  # two commands; each is far under a second
    assert out.endswith("False\n")
    assert "train a network" in out
    assert "11,689,512" in out


def test_fit_help_names_every_option(cli):
    result = cli("fit --help")
    assert result.status == 0
    for option in ("--model.arch", "--model.schedule.warmup", "--data", "--wandb.mode", "--run_dir", "--fresh"):
        assert option in result.out


def test_models_table(cli):
    result = cli("models resnet50 resnet26 --version v1")
    assert result.status == 0
    assert "25,557,032" in result.out
    assert "3.858e9" in result.out
    assert cli("models resnet21").status == 2


def test_models_shows_what_is_borrowed_and_what_is_only_published(cli):
    everything = cli("models --shortcut A --version v2").out  # which those that have the choice take
    for said in (
        "vgg16               16      none     none  138,357,544       15.470e9    224     1000\n",
        "-/4.82   ",
    ):
        assert said in everything
    assert "\n    torchvision's, to be evaluated and not trained\n    28.07/9.33 " in everything
    alone = cli("models prelu-net").out.splitlines()
    assert (alone[1], len(alone)) == ("PReLU-net", 5)
    both = cli("models googlenet --num_classes 10").out
    assert "5,610,154" in both
    assert "published, without a network here\nGoogLeNet\n    -/9.15 " in both
    refused = cli("models vgg16 --version v1")
    assert (refused.status, "vgg16 has no versions: leave out version 'v1'" in refused.err) == (2, True)


def test_no_command_is_help(cli):
    assert cli("").out == cli("--help").out
