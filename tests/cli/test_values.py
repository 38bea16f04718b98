"""Values that cannot be, or would not count, are refused wherever they are written."""

import itertools
import shutil
import sys

import pytest

from tests.cli.test_mistakes import refused


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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fit --trainer.enable_checkpointing false", "trainer.enable_checkpointing=false would not count"),
        ("fit --trainer.callbacks=-", "trainer.callbacks"),
        ("fit --trainer.overfit_batches 0.001", "trainer.overfit_batches=0.001 of"),
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
        ("trainer.overfit_batches: null", "trainer.overfit_batches=null is not allowed"),
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


@pytest.mark.parametrize("line", ["fit --data.train_size 64", "fit --data CIFAR10 -c mine.yaml"])
def test_an_option_of_another_data_set_leads_to_it(cli, tmp_path, line):
    (tmp_path / "mine.yaml").write_text("data: {train_size: 64}")
    refused(cli(line), "data.train_size is no option of this data set", "--data ImageNet, ImageFolder")
