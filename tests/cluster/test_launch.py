"""What is started in a job; srun is a small script here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from reslightning import slurm
from reslightning.cluster.allocation import SIGNAL_SECONDS, Allocation
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


def test_a_task_of_an_array_passes_signals_to_itself_alone(job, tmp_path, monkeypatch):
    """The last task's SLURM_JOB_ID is the array's own, by which all its tasks would be signalled."""
    job(SLURM_STEP_ID="", SLURM_JOB_ID="5", SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="2")
    monkeypatch.setenv("RESLIGHTNING_ALIVE", "")
    program(tmp_path, monkeypatch, "scancel", f'echo "$@" >> {tmp_path}/asked')
    strike = "sleep 1; for signal in TERM USR2 INT; do kill -$signal $PPID; sleep 0.2; done; exit 75"
    program(tmp_path, monkeypatch, "srun", strike)
    assert slurm.main(["launch"]) == 75
    asked = (tmp_path / "asked").read_text().splitlines()
    assert sorted(asked) == [f"--signal={name} 5_2" for name in ("INT", "TERM", "USR2")]


@pytest.mark.parametrize(
    ("limit", "short"),
    [("00:01:00", True), ("00:02:00", True), ("00:03:00", False), ("1-00:00:00", False), ("UNLIMITED", False)],
)
def test_a_limit_below_the_signal_s_time_is_said(job, cli, tmp_path, monkeypatch, capfd, limit, short):
    """By launch and beside submitit's tasks in the job's output, by doctor before it, by submit where it is given."""
    job(SLURM_STEP_ID="", SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="2", SLURM_JOB_CPUS_PER_NODE="1")
    monkeypatch.setenv("RESLIGHTNING_ALIVE", "")
    # By the array's own number Slurm tells of every task.
    program(tmp_path, monkeypatch, "scontrol", f'[ "$3" = 5_2 ] && echo "   RunTime=0 TimeLimit={limit} Requeue=1"')
    program(tmp_path, monkeypatch, "srun", "exit 0")
    told = f"a time limit of {limit} is not above the 120 s"
    for arguments in (["launch"], ["watch", "17"]):
        assert slurm.main(arguments) == 0
        assert (told in capfd.readouterr().err) == short
    looked = cli("doctor")
    assert (looked.status, f"BAD   time limit             {told}" in looked.out) == (int(short), short)
    for name in [name for name in os.environ if name.startswith("SBATCH_")]:
        monkeypatch.delenv(name)
    queued = cli(f"submit --time {limit} --dry_run -- fit -c digits")
    assert (queued.status, told in queued.err) == (2 * short, short)


@pytest.mark.parametrize("given", ["--time 2", "--time 0:90", "--time 0-0:1", "--sbatch time=1:59", "--site site.env"])
def test_submit_refuses_a_limit_below_the_signal_s_time(cli, tmp_path, monkeypatch, given):
    monkeypatch.delenv("SBATCH_TIMELIMIT", raising=False)
    monkeypatch.setenv("SBATCH_TIMELIMIT", "60")
    (tmp_path / "site.env").write_text("export SBATCH_TIMELIMIT=1\n")
    refused = cli(f"submit {given} -- fit -c digits")
    assert refused.status == 2
    assert "is not above the 120 s" in refused.err
    assert "ten minutes or more" in refused.err
    assert not (tmp_path / "submitted").exists()


def test_a_signal_of_one_s_own_may_come_later(cli):
    assert cli("submit --time 2 --sbatch signal=USR2@20 --dry_run -- fit -c digits").status == 0


def test_the_scripts_ask_for_the_signal_that_is_counted_with():
    scripts = list((Path(__file__).parents[2] / "slurm").glob("*.sh"))
    assert len(scripts) == 2
    for script in scripts:
        assert f"#SBATCH --signal=USR2@{SIGNAL_SECONDS}\n" in script.read_text()


def test_outside_of_a_job_launch_says_so(monkeypatch, capsys):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert slurm.main(["launch"]) == 2
    assert "submit slurm/train.sh with sbatch" in capsys.readouterr().err
