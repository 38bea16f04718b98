"""What a job was given, and what fit refuses in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reslightning.cli.choice import find_run
from reslightning.cluster.allocation import Allocation, check, check_places
from reslightning.errors import UserError
from tests.conftest import SMALL


def test_counts_per_node():
    environ = {"SLURM_JOB_ID": "1", "SLURM_NNODES": "3", "SLURM_NTASKS": "5", "SLURM_TASKS_PER_NODE": "2(x2),1"}
    found = Allocation.here(environ | {"SLURM_JOB_CPUS_PER_NODE": "36,24(x2)", "SLURM_GPUS_ON_NODE": "4"})
    assert (found.tasks, found.cpus, found.gpus, found.in_step) == ((2, 2, 1), 24, 4, False)
    assert Allocation.here({}) is None
    shell = environ | {"SLURM_STEP_ID": "4294967290"}
    assert not Allocation.here(shell).in_step


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
    assert waited == [30.0]


STEP = {"SLURM_JOB_ID": "9", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}
LIGHTNINGS = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "NODE_RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("processes", "environ"),
    [
        (1, {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}),  # what some images set
        (2, {}),
        (2, LIGHTNINGS),
        (4, {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4"}),
        (4, STEP),
        (4, STEP | {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}),  # what some scripts export
        (1, {"SLURM_JOB_ID": "9", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}),
    ],
)
def test_a_place_that_a_launcher_gave_is_believed(processes, environ):
    check_places(processes, environ)


@pytest.mark.parametrize(
    ("processes", "environ", "lie"),
    [
        (1, LIGHTNINGS, "LOCAL_RANK"),
        (2, {"LOCAL_RANK": "0"}, "LOCAL_RANK"),
        (2, LIGHTNINGS | {"RANK": "0"}, "RANK"),
        (4, STEP | {"RANK": "0"}, "RANK"),
        (4, STEP | {"WORLD_SIZE": "1"}, "WORLD_SIZE"),
        (1, {"SLURM_JOB_ID": "9", "SLURM_PROCID": "1"}, "SLURM_PROCID"),
        (1, {"SLURM_NTASKS": "1"}, "SLURM_NTASKS"),
        (2, {"NODE_RANK": "1"}, "NODE_RANK"),
    ],
)
def test_a_place_that_nobody_gave_is_refused(processes, environ, lie):
    with pytest.raises(UserError, match=f"^{lie}={environ[lie]} lies about"):
        check_places(processes, environ)


@pytest.mark.parametrize("command", ["fit", "predict --model.weights x --output x.csv"])
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RANK", "1", "unset RANK"),
        ("LOCAL_RANK", "1", "unset LOCAL_RANK"),
        ("GROUP_RANK", "1", "unset GROUP_RANK"),
        ("WORLD_SIZE", "2", "unset WORLD_SIZE"),
        ("SLURM_PROCID", "2", "unset SLURM_PROCID"),
        ("SLURM_NTASKS", "2", "unset SLURM_NTASKS"),
        ("RANK", "first", "is no process's number"),
    ],
)
def test_a_variable_that_lies_about_is_noticed_before_training(
    cli, tmp_path, monkeypatch, command, variable, value, said
):
    monkeypatch.setenv(variable, value)
    result = cli(command)
    assert result.status == 2
    assert said in result.err
    assert not list(tmp_path.iterdir())


def test_a_run_directory_that_lies_about_is_noticed(tmp_path, monkeypatch):
    for value in ("elsewhere", f"1:{tmp_path}/elsewhere"):
        monkeypatch.setenv("RESLIGHTNING_RUN_DIR", value)
        with pytest.raises(UserError, match="unset RESLIGHTNING_RUN_DIR"):
            find_run({"data": {"class_path": "Digits"}}, "run", [], None, fresh=False)
    monkeypatch.setenv("RESLIGHTNING_RUN_DIR", f"{os.getppid()}:{tmp_path}/elsewhere")
    monkeypatch.setenv("LOCAL_RANK", "1")
    config = {"data": {"class_path": "Digits"}, "model": {"arch": "resnet8"}, "seed_everything": 0}
    assert find_run(config, "run", [], None, fresh=False).directory == tmp_path / "elsewhere"
    monkeypatch.delenv("LOCAL_RANK")
    assert find_run(config, "run", [], None, fresh=False).directory == Path("run")
    assert not list(tmp_path.iterdir())
