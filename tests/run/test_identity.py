"""What determines a run, and what does not."""

import pytest
import yaml

from reslightning.cli.configs import available_configs
from reslightning.data.registry import DATA_SETS
from reslightning.run import identity

CONFIG = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 3, "devices": "auto", "precision": None},
    "model": {"arch": "resnet20", "optim": {"lr": 0.1}, "ema_decay": None},
    "data": {
        "class_path": "reslightning.data.CIFAR10",
        "init_args": {"root": "a", "batch_size": 128, "num_workers": 0},
    },
    "wandb": {"mode": "auto"},
}


def changed(group, **values):
    return CONFIG | {group: CONFIG[group] | values}


@pytest.mark.parametrize(
    "config",
    [
        changed("trainer", devices=8, num_nodes=2, logger=True, accelerator="gpu"),
        changed("wandb", mode="offline", tags=["x"]),
        changed("data", init_args={"root": "b", "batch_size": 128, "num_workers": 4, "download": True}),
        CONFIG | {"run_dir": "elsewhere"},
        changed("model", norm_momentum=None, ema_warmup=None, optim={"lr": 0.1, "norm_bias_lr": None}),
        changed("model", activation_checkpointing=True),
    ],
)
def test_what_does_not_determine_the_result(config):
    assert identity.identity(config) == identity.identity(CONFIG)
    assert identity.differences(CONFIG, config) == []


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (changed("trainer", max_epochs=4), "  trainer.max_epochs: 3 there, 4 given"),
        (changed("trainer", precision="bf16-mixed"), "  trainer.precision: None there, bf16-mixed given"),
        (changed("model", optim={"lr": 0.2}), "  model.optim.lr: 0.1 there, 0.2 given"),
        (changed("model", ema_decay=0.9), "  model.ema_decay: None there, 0.9 given"),
        (CONFIG | {"seed_everything": 1}, "  seed_everything: 0 there, 1 given"),
        (changed("data", class_path="reslightning.data.CIFAR100"), "  data: CIFAR10 there, CIFAR100 given"),
    ],
)
def test_what_does(config, line):
    assert identity.identity(config) != identity.identity(CONFIG)
    assert identity.differences(CONFIG, config) == [line]


def test_the_directory_is_named_for_what_it_holds():
    assert str(identity.default_directory(CONFIG)) == f"runs/cifar10-resnet20-0-{identity.identity(CONFIG)}"


def test_what_an_option_means_that_a_config_lacks(cli, tmp_path):
    """DEFAULTS are the code's defaults, or a default was changed, which counts for every run, or one was forgotten."""
    (tmp_path / "nothing.yaml").write_text("wandb: {mode: offline}\n")
    found = {}
    for data in DATA_SETS:
        text = cli(f"fit -c nothing.yaml --data {data} --print_config").out
        found |= identity.determining(yaml.safe_load(text))
    del found["data"]
    for name, value in found.items():
        assert name in identity.DEFAULTS, (
            f"{name} is new: give it the default None, or add {name!r}: {value!r} to DEFAULTS in run/identity.py, so "
            "that it changes no run"
        )
        assert identity.DEFAULTS[name] == value, (
            f"{name} had the default {identity.DEFAULTS[name]} and has {value} now: runs that did not give it would go "
            "on as other trainings. Leave it and set the new value in the configs, or, where the new default is meant, "
            "except it here: it counts in every identity from now on"
        )


def test_a_default_that_is_changed_counts():
    config = changed("model", arch="resnet32", label_smoothing=0.0)
    assert identity.identity(changed("model", arch="resnet32")) == identity.identity(config)
    assert identity.identity(changed("model", arch="resnet32", label_smoothing=0.1)) != identity.identity(config)
    newer = CONFIG | {"trainer": CONFIG["trainer"] | {"inference_speed": 3}}  # of a Lightning to come
    assert identity.identity(newer) != identity.identity(CONFIG)


SHIPPED = {
    "cifar10": "7c32de43",
    "cifar100": "50b29586",
    "digits": "04a8394b",
    "imagenet": "cfb8c49f",
    "imagenet_fast": "cfd3d9fd",
    "imagenet_modern": "61d9962f",
    "imagenet_torchvision": "c825509c",
    "tiny": "71a8828f",
}


def test_the_shipped_configs_keep_their_identities(cli):
    """Their runs would begin again beside what is there: where that is meant, the new identity goes here."""
    configs = [name for name in available_configs() if not name.startswith("overlays/")]
    found = {name: identity.identity(yaml.safe_load(cli(f"fit -c {name} --print_config").out)) for name in configs}
    assert found == SHIPPED
