"""What is started in a job; srun is a small script here."""

from __future__ import annotations

import signal

import pytest

from reslightning import slurm
from reslightning.cluster.allocation import Allocation
from reslightning.cluster.launch import Plan
from reslightning.errors import SIGNALS, UserError
from tests.cluster.conftest import program


def given(**fields) -> Allocation:
    default = {"name": "resnet", "nodes": 2, "tasks": (), "cpus": 8, "cpus_per_task": None, "gpus": 0}
    return Allocation(**default | {"in_step": False, "batch": True} | fields)


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
