"""Every way to write an option means the same training, and what cannot count is refused."""

import pytest
import yaml

from reslightning.run.identity import differences, identity
from tests.conftest import SMALL, summary

ONE = "trainer: {limit_train_batches: 1, limit_val_batches: 1.0, overfit_batches: 0.5}\n"


def printed(result) -> dict:
    assert result.status == 0, result.err
    return yaml.safe_load(result.out)


@pytest.mark.parametrize(
    ("option", "given", "meant"),
    [("limit_train_batches", "1", 1), ("limit_predict_batches", "1e0", 1.0), ("limit_test_batches", "3", 3)],
)
def test_a_whole_number_of_batches_stays_one(cli, tmp_path, option, given, meant):
    (tmp_path / "one.yaml").write_text(f"trainer: {{{option}: {given}}}\n")
    ways = [f"--trainer.{option} {given}", f"--trainer.{option}={given}", f"--trainer '{{{option}: {given}}}'"]
    for way in [*ways, "-c one.yaml", "-c digits -c one.yaml"]:
        value = printed(cli(f"fit {way} --print_config"))["trainer"][option]
        assert (type(value), value) == (type(meant), meant), way


@pytest.mark.parametrize("way", ["-c one.yaml", "-cone.yaml", "-c=one.yaml", "--config one.yaml", "--config=one.yaml"])
def test_every_way_to_name_a_config(cli, tmp_path, way):
    (tmp_path / "one.yaml").write_text(ONE)
    trainer = printed(cli(f"fit {way} --print_config"))["trainer"]
    assert str([trainer[name] for name in ("limit_train_batches", "limit_val_batches", "overfit_batches")]) == (
        "[1, 1.0, 0.5]"
    )


def test_one_batch_is_one_batch_again(cli, tmp_path):
    """What was trained, written down, continued, and read by earlier versions."""
    assert cli(f"fit {SMALL} --trainer.max_epochs 1 --trainer.limit_train_batches 1 --run_dir run").status == 0
    assert summary(tmp_path / "run")["global_step"] == 1
    again = cli("fit -c run/config.yaml --trainer.limit_train_batches=1")
    assert "nothing to do" in again.out
    (tmp_path / "printed.yaml").write_text(cli("fit -crun/config.yaml --print_config").out)
    assert "nothing to do" in cli("fit -c=printed.yaml --run_dir run").out
    all_of_them = cli("fit -c run/config.yaml --trainer.limit_train_batches 1.0 --run_dir run")
    assert "trainer.limit_train_batches: 1 there, 1.0 given" in all_of_them.err


def test_a_number_of_batches_keeps_its_identity():
    def config(value):
        return {"trainer": {"limit_train_batches": value}}

    assert identity(config(4)) == identity(config(4.0))  # as earlier versions wrote it
    assert identity(config(1)) != identity(config(1.0))
    assert differences(config(1), config(1.0))
    assert not differences(config(4), config(4.0))


def test_the_data_set_counts_first_wherever_it_stands(cli):
    first = printed(cli("fit --data ImageFolder --data.train_size 64 --print_config"))
    assert printed(cli("fit --data.train_size 64 --data=ImageFolder --print_config")) == first
    mapping = printed(cli("fit --data '{class_path: CIFAR10}' --print_config"))
    assert mapping["model"] == printed(cli("fit --data CIFAR10 --print_config"))["model"]


MISTAKES = [
    ("--data.seed 3", "--seed_everything sets it"),
    ("--data.init_args.seed=3", "--seed_everything sets it"),
    ("--data '{init_args: {seed: 3}}'", "--seed_everything sets it"),
    ("--data.root pictures", "--data CIFAR10, CIFAR100, ImageNet, ImageFolder"),
    ("--data.stage_to /tmp", "data.stage_to=/tmp is nothing to Digits"),
    ("--data.download true", "data.download=true is nothing to Digits"),
    ("--data.train_size 64", "--data ImageNet, ImageFolder"),
    ("--data CIFAR10 --data.eval_size 64", "--data ImageNet, ImageFolder"),
    ("--run_dir ''", "run_dir is empty"),
    ("--data CIFAR10 --data.root=", "data.root is empty"),
    ("--output x.csv", "it is an option of predict"),
    ("--model.schedule.gamma -1", "(0, 1]"),
    ("--model.schedule.gamma 0", "(0, 1]"),
    ("--model.schedule.gamma 1.5", "(0, 1]"),
    ("--model.schedule.gamma 0.5", "model.schedule.name=one_cycle; leave it out, or choose step"),
    ("--model.schedule.tau 3", "or choose linear"),
    ("--model.optim.betas '[0.9,0.99]'", "or choose adamw"),
    ("--model.optim.name adamw --model.optim.momentum 0.5", "or choose sgd"),
    ("--model.schedule.name step --model.schedule.milestones '[]'", "in ascending order"),
    ("--model.schedule.name step --model.schedule.milestones '[1,.inf]'", "in ascending order"),
    ("--model.schedule.warmup .inf", "0 or more"),
    ("--model.optim.lr .inf", "a positive number"),
    ("--model.optim.lr .nan", "a positive number"),
    ("--model.optim.lr true", "a number"),
    ("--model.optim.lr 1:30", "would be read as 90"),
    ("--data.mixup 010", "data.mixup=010 is no number"),
    ("--data.batch_size 0128", "data.batch_size=0128 is not allowed"),
    ("--model.optim.weight_decay .inf", "0 or more"),
    ("--model.optim.betas '[0.9]'", "a list like [x, y] of a number"),
    ("--data.batch_size true", "a whole number"),
    ("--data.batch_size 1e2", "a whole number"),
    ("--data.mean '[123.7,116.3,103.5]'", "[0, 1]"),
    ("--data.mean '[.nan,0.5,0.5]'", "[0, 1]"),
    ("--data.std '[58.4,57.1,57.4]'", "(0, 1]"),
    ("--seed_everything -1", "4294967295"),
    ("--seed_everything 4294967296", "4294967295"),
    ("--trainer.max_epochs null", "1 or more"),
    ("--trainer.max_epochs 0", "1 or more"),
    ("--trainer.max_epochs 1:30", "would be read as 90"),
    ("--trainer.min_epochs 99", "more than trainer.max_epochs=12"),
    ("--trainer.check_val_every_n_epoch 0", "1 or more"),
    ("--trainer.check_val_every_n_epoch null", "1 or more"),
    ("--trainer.val_check_interval 1", "not supported"),
    ("--trainer.accumulate_grad_batches 0", "1 or more"),
    ("--trainer.gradient_clip_val -1", "0 or more"),
    ("--trainer.overfit_batches -1", "0 or more"),
    ("--trainer.limit_train_batches 0", "leaves nothing"),
    ("--trainer.limit_train_batches 0.001", "leaves none to train"),
    ("--trainer.limit_val_batches -1", "leaves nothing"),
    ("--wandb.mode ''", "auto, online, offline, disabled"),
    ("--data.flip sometimes", "true or false, alternating"),
    ("--data.first_size 24", "data.first_size and data.grow_epochs belong together"),
    ("--data.first_size 0 --data.grow_epochs '[1,2]'", "pixels in [1, 4096]"),
    ("--data.first_size 32 --data.grow_epochs '[1,2]'", "less than the 32 pixels that training images grow to"),
    ("-c overlays/fast --data tests.small.Originals", "less than the 8 pixels that training images grow to"),
    ("--data.first_size 30 --data.grow_epochs '[1,2]'", "the stride of resnet20\nallowed: 4, 8, 12, 16, 20, 24, 28"),
    ("--data.first_size 24 --data.grow_epochs '[1,2]' --model.arch resnet18", "allowed: none, of images of 32 pixels"),
    ("--data.first_size 24 --data.grow_epochs '[2,1]'", "no span of epochs"),
    ("--model.optim.weight_decay -1e-4", "model.optim.weight_decay=-0.0001 is out of range; allowed: 0 or more"),
    ("--model.optim.momentum 1.0", "a number in [0, 1)"),
    ("--model.optim.momentum -.5", "a number in [0, 1)"),
    ("--trainer.precision 16-mixed --trainer.accelerator cpu", "Give trainer.precision bf16-mixed"),
    ("--model.activation_checkpointing true --model.compile true", "Leave one of them out"),
    ("--model.norm_momentum 0", "(0, 1]"),
    ("--model.norm_momentum 1.5", "(0, 1]"),
    ("--model.norm_momentum 0.4 --model.norm none", "Leave one of them out"),
    ("--model.optim.norm_bias_lr 0", "a positive number"),
    ("--model.optim.norm_bias_lr 64 --model.norm none", "model.norm is none"),
    ("--model.ema_warmup true", "model.ema_warmup needs an average to begin"),
    ("--model.ema_warmup 10 --model.ema_decay 0.9", "true or false"),
]


@pytest.mark.parametrize(("options", "said"), MISTAKES)
def test_what_cannot_count_is_refused(cli, tmp_path, options, said):
    result = cli(f"fit {options}")
    assert result.status == 2
    assert said in result.err
    assert len(result.err.splitlines()) <= 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("limit_val_batches 0.001", "limit_val_batches=0.001 of 1 batches leaves none to validate on"),
        ("limit_val_batches .9", "limit_val_batches=0.9 of 1 batches"),
        ("overfit_batches 0.3", "overfit_batches=0.3 of 1 batches"),
        ("limit_train_batches 0.1", "limit_train_batches=0.1 of 5 steps leaves none to train"),
    ],
)
def test_a_fraction_of_a_batch_is_refused_before_anything_is_made(cli, tmp_path, option, said):
    result = cli(f"fit {SMALL} --trainer.{option}")
    assert result.status == 2
    assert said in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {arch: resnet8}\nmodel: {arch: resnet14}\n", "line 2: 'model' is given twice, first in line 1"),
        ("trainer:\n  max_epochs: 1\n  devices: 1\n  max_epochs: 2\n", "line 4: 'max_epochs' is given twice"),
        ("model:\n  optim: {lr: 0.1, lr: 0.2}\n", "line 2: 'lr' is given twice"),
        ("trainer.max_epochs: 3\ntrainer: {max_epochs: 4}\n", "trainer.max_epochs is given twice"),
        ("seed_everything: 010\n", "line 1: 010 reads as 8"),
        ("trainer: {max_epochs: 1:30}\n", "line 1: 1:30 reads as 90"),
        ("data: {class_path: Digits, init_args: {seed: 5}}\n", "--seed_everything sets it"),
        ("data: {class_path: Digits, init_args: {root: x}}\n", "data.root=x is nothing to Digits"),
        ("model: {num_classes: 5}\n", "the data says how many classes"),
        ("model: {schedule: {gamma: .inf}}\n", "(0, 1]"),
    ],
)
def test_what_cannot_count_in_a_config_is_refused(cli, tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    result = cli("fit -c mine.yaml")
    assert result.status == 2
    assert said in result.err


def test_what_is_given_twice_within_a_flag_is_refused(cli):
    assert "'lr' is given twice" in cli("fit --model.optim '{lr: 0.1, lr: 0.2}'").err


def test_a_merged_mapping_is_no_repetition(cli, tmp_path):
    base = "{max_epochs: 3, devices: 1}"
    (tmp_path / "mine.yaml").write_text(f"trainer:\n  <<: {base}\n  max_epochs: 5\n")
    trainer = printed(cli("fit -c mine.yaml --print_config"))["trainer"]
    assert (trainer["max_epochs"], trainer["devices"]) == (5, 1)


def test_a_digits_run_that_was_begun_with_a_root_goes_on(cli, tmp_path):
    assert cli(f"fit {SMALL} --trainer.max_epochs 1 --run_dir run").status == 0
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("root: null", "root: /nowhere"))
    assert "nothing to do" in cli("fit --run_dir run").out
    assert cli("test --run_dir run").status == 0


def test_evaluations_of_nothing_are_refused(cli):
    for command, option in (("test", "test"), ("validate", "val"), ("predict", "predict")):
        result = cli(f"{command} --model.weights x --trainer.limit_{option}_batches 0")
        assert result.status == 2
        assert "leaves nothing" in result.err
