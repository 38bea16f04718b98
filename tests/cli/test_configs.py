"""Configs beside configs and flags: every way to write an option means the same, and none is forgotten in silence."""

from pathlib import Path

import pytest
import yaml

from tests.conftest import SMALL


def printed(result) -> dict:
    assert result.status == 0, result.err
    return yaml.safe_load(result.out)


def write(**texts: str) -> None:
    for name, text in texts.items():
        Path(f"{name}.yaml").write_text(text)


@pytest.mark.parametrize(
    "way",
    [
        "--data '{{class_path: {data}, init_args: {{batch_size: 64}}}}'",
        "--data {data} --data '{{batch_size: 64}}'",
        "--data '{{init_args: {{batch_size: 64}}}}' --data.class_path {data}",
        "--data ImageFolder --data={data} --data.init_args '{{batch_size: 64}}'",
        "--data.class_path ImageNet --data file.yaml",
        "--data.batch_size 3 --data file.yaml",
    ],
)
@pytest.mark.parametrize("data", ["Digits", "CIFAR10"])
def test_every_way_to_give_the_data_set_starts_from_its_config(cli, way, data):
    write(file=f"class_path: {data}\ninit_args: {{batch_size: 64}}\n")
    assert printed(cli(f"fit {way.format(data=data)} --print_config")) == printed(
        cli(f"fit --data {data} --data.batch_size 64 --print_config")
    )


def test_a_mapping_of_options_alone_is_of_the_digits(cli):
    assert printed(cli("fit --data '{batch_size: 64}' --print_config")) == printed(
        cli("fit --data.batch_size 64 --print_config")
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--model file.yaml", "model.num_classes=3 would not count"),
        ("--data data.yaml", "data.seed=4 would not count"),
        ("--model.optim twice.yaml", "twice.yaml, line 2: 'lr' is given twice"),
        ("-c of_file.yaml", "data.seed=4 would not count"),
    ],
)
def test_options_in_a_file_of_their_group_are_looked_at(cli, flags, said):
    write(
        file="num_classes: 3\n",
        data="class_path: CIFAR10\ninit_args: {seed: 4}\n",
        twice="lr: 0.1\nlr: 0.2\n",
        of_file="data: data.yaml\n",
    )
    result = cli(f"fit {flags} --print_config")
    assert result.status == 2
    assert said in result.err


@pytest.mark.parametrize(
    "flags",
    [
        "--model.optim optim.yaml --model.schedule cosine.yaml",
        "-c of_files.yaml",
        "--model model.yaml --data small.yaml --trainer trainer.yaml",
    ],
)
def test_options_in_a_file_of_their_group_count(cli, tmp_path, flags):
    write(
        optim="lr: 0.05\nnesterov: true\n",
        cosine="name: cosine\nwarmup: 1\n",
        of_files="model: {optim: optim.yaml, schedule: cosine.yaml}\n",
        model="arch: resnet8\noptim: {lr: 0.05, nesterov: true}\nschedule: {name: cosine, warmup: 1}\n",
        small="class_path: tests.small.Thumbnails\n",
        trainer="enable_model_summary: false\n",
    )
    meant = (
        f"-c digits {SMALL} --model.optim '{{lr: 0.05, nesterov: true}}' --model.schedule '{{name: cosine, warmup: 1}}'"
    )
    given = f"-c digits {SMALL} {flags}"
    assert printed(cli(f"fit {given} --print_config")) == printed(cli(f"fit {meant} --print_config"))
    assert cli(f"fit {given} --run_dir run").status == 0
    assert "nothing to do" in cli(f"fit {meant} --run_dir run").out


@pytest.mark.parametrize(
    ("texts", "line", "lost"),
    [
        (("data: {train_size: 64}", "data: CIFAR10"), "-c a.yaml -c b.yaml --data ImageFolder", "train_size=64"),
        (
            ("data: {class_path: CIFAR10, init_args: {crop_padding: 1}}", "data.class_path: ImageNet"),
            "-c a.yaml -c b.yaml --data CIFAR10",
            "crop_padding=1",
        ),
        (("data: {policy: rand}", "{}"), "-c a.yaml -c cifar10 -c imagenet --data ImageNet", None),
        (("data: {train_size: 64}", "data: CIFAR10"), "-c a.yaml -c b.yaml --data ImageNet --data.train_size 64", None),
        (
            ("data: {class_path: ImageNet, init_args: {train_size: 9}}", "data: CIFAR10"),
            "-c a.yaml -c b.yaml",
            None,
        ),
    ],
)
def test_an_option_is_not_forgotten_between_two_data_sets(cli, texts, line, lost):
    write(a=texts[0], b=texts[1])
    result = cli(f"fit {line} --print_config")
    assert result.status == (2 if lost else 0), result.err
    if lost:
        assert f"data.{lost} in a.yaml would not count" in result.err
        assert f"--data.{lost.replace('=', ' ')}" in result.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config: base.yaml\nmodel: {arch: resnet8}\n", "Give both on the command line: -c base.yaml -c mine.yaml"),
        ("config: [base.yaml, b.yaml]\n", "-c base.yaml -c b.yaml -c mine.yaml"),
        ("3: x\n", "mine.yaml: 3 is no option's name"),
        ("model: {on: 3}\n", "mine.yaml: True is no option's name"),
        ("trainer: {null: 3}\n", "mine.yaml: None is no option's name"),
    ],
)
def test_what_no_config_can_say(cli, text, said):
    write(mine=text)
    result = cli("fit -c mine.yaml --print_config")
    assert result.status == 2
    assert said in result.err


def test_names_that_a_class_takes_are_its_own(cli):
    write(mine="trainer: {callbacks: {class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 2}}}}\n")
    assert cli("fit -c mine.yaml --print_config").status == 0


@pytest.mark.parametrize("given", ["'{'", "'{class_path: CIFAR10'", "null", "'{class_path: null}'", "'{init_args: 3}'"])
def test_a_data_set_that_is_none(cli, tmp_path, given):
    result = cli(f"fit --data {given}")
    assert result.status == 2
    assert "allowed: " in result.err
    assert not list(tmp_path.iterdir())


def test_a_run_in_the_place_of_its_config(cli):
    Path("run").mkdir()
    Path("run/config.yaml").write_text("model: {arch: resnet8}\n")
    assert "no config 'run'; did you mean 'run/config.yaml'?" in cli("fit -c run").err
