"""Identity, summary and lock of a run directory."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reslightning import runs
from reslightning.errors import UserError
from reslightning.runs import Lock, Run

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


HOLD = """
import sys, time
from pathlib import Path
from reslightning.runs import Lock
Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_live_holder_is_named_and_a_dead_one_is_taken_over(tmp_path):
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on {os.uname().nodename}"):
        Lock(lock).acquire()
    holder.kill()
    holder.communicate()
    mine = Lock(lock)
    mine.acquire()
    assert json.loads(lock.read_text())["pid"] == os.getpid()
    mine.release()
    assert not lock.exists()


def test_a_holder_on_another_host_lives_while_it_shows_signs_of_life(tmp_path):
    lock = tmp_path / "lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": "17_3"}))
    with pytest.raises(UserError, match="process 1 on elsewhere, Slurm job 17_3"):
        Lock(lock).acquire()
    silent = time.time() - runs.DEAD_AFTER - 1
    os.utime(lock, (silent, silent))
    Lock(lock).acquire()


def test_segments_say_which_job_and_code(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    assert runs.job_id() == "18"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert runs.job_id() == "17_3"
    commit, dirty = runs.code_version()
    assert commit is None or (len(commit) == 40 and isinstance(dirty, bool))
