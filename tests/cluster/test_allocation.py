"""What a job was given, and what fit refuses in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslightning.cluster.allocation import Allocation, check
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
    assert waited == [5.0]
