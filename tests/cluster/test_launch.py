"""What a job was given, and what is made of it; scontrol and srun are small scripts here."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from reslightning import slurm
from reslightning.cluster import requeue
from reslightning.cluster.allocation import Allocation, check
from reslightning.cluster.launch import Plan
from reslightning.errors import SIGNALS, UserError, stop_wanted
from tests.conftest import SMALL, assert_same_result, summary


def given(**fields) -> Allocation:
    default = {"name": "resnet", "nodes": 2, "tasks": (), "cpus": 8, "cpus_per_task": None, "gpus": 0}
    return Allocation(**default | {"in_step": False, "batch": True} | fields)


@pytest.fixture
def job(monkeypatch):
    """Set the environment of a job of one task, started by srun."""

    def be(**variables: str) -> None:
        base = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "resnet", "SLURM_NNODES": "1", "SLURM_NTASKS": "1"}
        base |= {"SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_TASKS_PER_NODE": "1"}
        for name, value in (base | variables).items():
            monkeypatch.setenv(name, value)

    return be


def program(tmp_path, monkeypatch, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_counts_per_node():
    environ = {"SLURM_JOB_ID": "1", "SLURM_NNODES": "3", "SLURM_NTASKS": "5", "SLURM_TASKS_PER_NODE": "2(x2),1"}
    found = Allocation.here(environ | {"SLURM_JOB_CPUS_PER_NODE": "36,24(x2)", "SLURM_GPUS_ON_NODE": "4"})
    assert (found.tasks, found.cpus, found.gpus, found.in_step) == ((2, 2, 1), 24, 4, False)
    assert Allocation.here({}) is None
    shell = environ | {"SLURM_STEP_ID": "4294967290"}
    assert not Allocation.here(shell).in_step


@pytest.mark.parametrize(
    ("allocation", "plan"),
    [
        (given(), Plan(2, 1, 8, overcommit=False)),
        (given(gpus=4, cpus=48), Plan(2, 4, 12, overcommit=False, gpus=True)),
        (given(tasks=(2, 2), cpus_per_task=3), Plan(2, 2, 3, overcommit=False)),
        (given(gpus=4, cpus=1), Plan(2, 4, 1, overcommit=True, gpus=True)),
    ],
)
def test_a_plan(allocation, plan):
    assert Plan.of(allocation) == plan
    words = plan.srun()
    assert f"--ntasks={plan.nodes * plan.tasks_per_node}" in words
    assert ("--overcommit" in words) == plan.overcommit
    assert plan.trainer() == [f"--trainer.num_nodes={plan.nodes}", f"--trainer.devices={plan.tasks_per_node}"]


@pytest.mark.parametrize(
    ("allocation", "advice"),
    [
        (given(tasks=(2, 1)), "--nodes=2 --ntasks-per-node=2"),
        (given(tasks=(1, 1), gpus=4), "--ntasks-per-node=4"),
        (given(name="bash"), "--job-name=resnet"),
        (given(name="interactive", batch=False, tasks=(2, 2)), "--job-name=resnet"),
    ],
)
def test_no_plan(allocation, advice):
    with pytest.raises(UserError, match=advice):
        Plan.of(allocation)


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "advice"),
    [
        (
            {"SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"},
            1,
            1,
            "--ntasks-per-node=1, or --trainer.num_nodes 1 ",
        ),
        ({}, 2, 1, "--ntasks-per-node=2"),
        ({"SLURM_STEP_ID": ""}, 2, 1, "1/2 of the data"),
        ({"SLURM_STEP_ID": "", "SLURM_NTASKS": "2", "SLURM_TASKS_PER_NODE": "2"}, 1, 1, "Start it with srun"),
        ({"SLURM_NTASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"}, 2, 2, "Use --nodes=2 --ntasks-per-node=2;"),
        ({"SLURM_JOB_NAME": "bash", "ENVIRONMENT": "BATCH"}, 1, 1, "--job-name=resnet"),
    ],
)
def test_fit_refuses(job, cli, variables, devices, nodes, advice):
    job(**variables)
    result = cli(f"fit --trainer.devices {devices} --trainer.num_nodes {nodes} --trainer.accelerator cpu")
    assert result.status == 2
    assert advice in result.err
    assert not Path("runs").exists()


def test_a_shell_inside_a_job_may_train(job):
    job(SLURM_JOB_NAME="interactive")
    check(2, 1)


def test_requeue_says_what_came_of_it(job, tmp_path, monkeypatch):
    job(SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="3")
    program(tmp_path, monkeypatch, "scontrol", f'echo "$@" > {tmp_path}/asked')
    assert requeue.requeue() == "Slurm job 5_3 is requeued"
    assert (tmp_path / "asked").read_text() == "requeue 5_3\n"
    program(tmp_path, monkeypatch, "scontrol", "echo Requested operation is presently disabled >&2; exit 1")
    assert "not requeued (Requested operation is presently disabled): its next segment goes on" in requeue.requeue()
    monkeypatch.setenv("PATH", "")
    assert "scontrol is not installed here" in requeue.requeue()
    assert "--dependency=afterany:7" in requeue.requeue()


@pytest.mark.parametrize(
    ("status", "state", "requeued"),
    [
        *((status, "RUNNING", False) for status in (0, 1, 2, 75, 130, 143)),
        *((status, "RUNNING", True) for status in (134, 137, 139, 140)),
        (137, "COMPLETING", False),
    ],
)
def test_only_what_was_killed_is_requeued(job, tmp_path, monkeypatch, capsys, status, state, requeued):
    job()
    program(tmp_path, monkeypatch, "scontrol", f"echo $1 >> {tmp_path}/asked; echo JobState={state}")
    assert slurm.main(["ended", str(status)]) == status
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert ("requeue" in asked) == requeued
    assert ("was killed by signal" in capsys.readouterr().err) == requeued


def test_kills_before_training_began_are_not_repeated_for_ever(job, tmp_path, monkeypatch, capsys):
    job(SLURM_RESTART_COUNT="3")
    program(tmp_path, monkeypatch, "scontrol", "echo JobState=RUNNING")
    marker = tmp_path / "marker"
    marker.touch()
    monkeypatch.setenv("RESLIGHTNING_ALIVE", str(marker))
    assert requeue.ended(137) == 137
    assert "before training began, at restart 3: not requeued" in capsys.readouterr().err
    assert not marker.exists()
    marker.touch()
    requeue.begun()
    assert requeue.ended(137) == 137
    assert "is requeued" in capsys.readouterr().err


def test_a_lost_first_task_is_noticed(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    marker.touch()
    monkeypatch.setenv("RESLIGHTNING_ALIVE", str(marker))
    long_ago = time.time() - requeue.SILENCE - 1
    os.utime(marker, (long_ago, long_ago))
    assert not requeue.silent()  # training has not begun: data may take its time
    requeue.begun()
    assert not requeue.silent()
    os.utime(marker, (long_ago, long_ago))
    assert requeue.silent()
    program(tmp_path, monkeypatch, "pkill", f'echo "$@" > {tmp_path}/asked')
    monkeypatch.setattr(requeue, "POLL", 0.01)
    assert slurm.main(["watch", "17"]) == 0
    assert (tmp_path / "asked").read_text() == "-KILL -P 17 srun\n"
    requeue.beat()
    assert not requeue.silent()


def test_launch_starts_the_plan_and_passes_its_status(job, tmp_path, monkeypatch):
    job(
        SLURM_STEP_ID="",
        SLURM_NNODES="2",
        SLURM_NTASKS="4",
        SLURM_TASKS_PER_NODE="2(x2)",
        SLURM_JOB_CPUS_PER_NODE="8(x2)",
    )
    program(tmp_path, monkeypatch, "srun", f'echo "$OMP_NUM_THREADS $@" > {tmp_path}/asked; exit 3')
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("RESLIGHTNING_ALIVE", "")
    try:
        assert slurm.main(["launch", "-c", "digits"]) == 3
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("4 --nodes=2 --ntasks=4 --ntasks-per-node=2 --cpus-per-task=4 --export=ALL")
    assert asked.endswith("-m reslightning fit --trainer.num_nodes=2 --trainer.devices=2 -c digits\n")


def test_outside_of_a_job_launch_says_so(monkeypatch, capsys):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert slurm.main(["launch"]) == 2
    assert "submit slurm/train.sh with sbatch" in capsys.readouterr().err


def test_a_signal_before_training_is_kept_for_its_first_step(job, cli, finished, tmp_path, monkeypatch):
    reference = finished(cli)
    job()
    program(tmp_path, monkeypatch, "scontrol", f"echo $1 >> {tmp_path}/asked")
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir run"
    place = "reslightning.cli.lightning_cli.check_allocation"
    with monkeypatch.context() as patch:
        patch.setattr(place, lambda *args: (check(*args), os.kill(os.getpid(), signal.SIGUSR2)))
        first = cli(line)
    assert first.status == 75
    assert "stopped by SIGUSR2 at step 1" in first.out
    assert "Slurm job 7 is requeued" in first.out
    assert (tmp_path / "asked").read_text() == "show\nrequeue\n"
    assert not stop_wanted()
    assert cli(line).status == 0
    assert_same_result(Path("run"), reference)


def test_a_bare_sigterm_only_saves(job, cli, tmp_path, monkeypatch):
    job()
    program(tmp_path, monkeypatch, "scontrol", f"echo $1 >> {tmp_path}/asked")
    strike = f"--trainer.callbacks+=tests.observers.Strike --trainer.callbacks.mark {tmp_path}/mark"
    result = cli(f"fit {SMALL} --trainer.max_epochs 3 --run_dir run {strike} --trainer.callbacks.step 2")
    assert result.status == 75
    assert summary(Path("run"))["status"] == "preempted"
    assert not (tmp_path / "asked").exists()


def test_restarts_without_progress_end_and_others_do_not(job, cli, monkeypatch):
    poison = "--trainer.callbacks+=tests.observers.Poison --trainer.callbacks.step 0"
    line = f"fit {SMALL} --trainer.max_epochs 1 --run_dir run {poison}"
    job(SLURM_RESTART_COUNT="9")
    for _ in range(3):
        assert "the training loss is not finite" in cli(line).err
    refused = cli(line)
    assert refused.status == 1
    assert "the last 3 starts took no step that was kept, so job 7 ends at its restart number 9" in refused.err
    # Submitted again, it is tried again.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert "not finite" in cli(line).err


def test_fresh_in_a_job_needs_a_directory(job, cli):
    job()
    result = cli(f"fit {SMALL} --fresh")
    assert result.status == 2
    assert "--run_dir" in result.err


def test_only_the_first_task_says_a_mistake_at_once(job, cli, monkeypatch):
    waited = []
    monkeypatch.setattr("reslightning.__main__.time.sleep", waited.append)
    job(SLURM_PROCID="3")
    assert cli("fit --model.arch resnet9").status == 2
    assert waited == [5.0]
