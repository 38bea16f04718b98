"""Identity, summary and lock of a run directory."""

import json

import pytest

from reslightning import runs
from reslightning.lock import job_id
from reslightning.runs import Run

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
    assert runs.identity(config) == runs.identity(CONFIG)
    assert runs.differences(CONFIG, config) == []


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
    assert runs.identity(config) != runs.identity(CONFIG)
    assert runs.differences(CONFIG, config) == [line]


def test_the_directory_is_named_for_what_it_holds():
    assert str(runs.default_directory(CONFIG)) == f"runs/cifar10-resnet20-0-{runs.identity(CONFIG)}"


def test_a_summary_survives_segments_and_says_null_for_not_a_number(tmp_path):
    run = Run(tmp_path / "run")
    run.open()
    run.start({"arch": "resnet20"}, world_size=1, step=0)
    run.update(global_step=7, metrics={"train/loss": float("nan")})
    run.close()
    again = Run(tmp_path / "run")
    again.open()
    again.start({"arch": "resnet20"}, world_size=2, step=7)
    again.update(global_step=9, status="finished")
    again.close()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"] == {"train/loss": None}
    assert [(s["from_step"], s["to_step"], s["world_size"]) for s in summary["segments"]] == [(0, 7, 1), (7, 9, 2)]
    assert summary["run_id"] == run.summary["run_id"]
    assert summary["status"] == "finished"
    assert not list((tmp_path / "run").glob(".*"))


def test_segments_say_which_job_and_code(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    assert job_id() == "18"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job_id() == "17_3"
    commit, dirty = runs.code_version()
    assert commit is None or (len(commit) == 40 and isinstance(dirty, bool))
