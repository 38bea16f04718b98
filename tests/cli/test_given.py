"""A mistake that stands in a config is said with the config."""

import pytest


@pytest.fixture
def configs(tmp_path):
    (tmp_path / "peak.yaml").write_text("model: {schedule: {name: one_cycle, peak: 2}}\n")
    (tmp_path / "norm.yaml").write_text("model: {norm: none, norm_momentum: 0.4}\ntrainer: {max_epochs: 3}\n")
    (tmp_path / "steps.yaml").write_text("trainer.max_steps: 100\n")
    (tmp_path / "seed.yaml").write_text("seed_everything: -1\n")
    (tmp_path / "optim.yaml").write_text("lr: -0.1\n")
    (tmp_path / "group.yaml").write_text("model: {optim: optim.yaml}\n")
    (tmp_path / "data.yaml").write_text("data: {class_path: Digits, init_args: {mean: [1, 2, 3]}}\n")


MISTAKES = [
    ("-c peak.yaml", "model.schedule.peak", "peak.yaml"),
    ("-c digits -c peak.yaml", "model.schedule.peak", "peak.yaml"),
    ("-c norm.yaml", "model.norm_momentum", "norm.yaml"),
    ("-c steps.yaml", "trainer.max_steps", "steps.yaml"),
    ("-c seed.yaml", "seed_everything", "seed.yaml"),
    ("-c group.yaml", "model.optim.lr", "optim.yaml"),
    ("-c data.yaml", "data.mean", "data.yaml"),
    ("-c norm.yaml --model.norm batch --trainer.min_epochs 9", "trainer.max_epochs", "norm.yaml"),
    ("--trainer.min_epochs 99", "trainer.max_epochs", "digits.yaml"),  # which nobody named
    ("-c overlays/fast --data tests.small.Originals", "data.first_size", "overlays/fast.yaml"),
]


@pytest.mark.parametrize(("options", "key", "config"), MISTAKES)
def test_a_mistake_names_its_config(cli, configs, options, key, config):
    result = cli(f"fit {options}")
    assert result.status == 2
    (place,) = [line for line in result.err.splitlines() if " stands in " in line]
    assert place.startswith(f"{key} stands in ")
    assert place.endswith(config)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-c peak.yaml --model.schedule.peak 3", "model.schedule.peak=3"),
        ("--model.schedule.peak=3 -c peak.yaml", "model.schedule.peak=3"),
        ("-c norm.yaml --model.norm_momentum 7", "model.norm_momentum=7"),
        ("-c norm.yaml --model.norm batch --trainer.max_steps 5", "trainer.max_epochs\ngiven: 5"),  # what to do instead
    ],
)
def test_a_mistake_of_a_flag_names_none(cli, configs, options, said):
    result = cli(f"fit {options}")
    assert result.status == 2
    assert said in result.err
    assert "stands in" not in result.err


def test_the_later_config_is_named(cli, configs, tmp_path):
    (tmp_path / "later.yaml").write_text("model: {schedule: {peak: 4}}\n")
    assert "model.schedule.peak stands in later.yaml" in cli("fit -c peak.yaml -c later.yaml").err
    assert "model.schedule.peak stands in peak.yaml" in cli("fit -c later.yaml -c peak.yaml").err


def test_a_run_of_its_own_config_names_it(cli, configs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text((tmp_path / "peak.yaml").read_text())
    assert "model.schedule.peak stands in run/config.yaml" in cli("fit -c run/config.yaml").err


def test_jobs_name_configs_too(cli, configs):
    result = cli("submit --dry_run -- fit -c seed.yaml -c peak.yaml")
    assert result.status == 2
    assert "stands in" in result.err
