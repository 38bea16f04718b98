"""What determines a run, and what does not."""

import pytest

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
