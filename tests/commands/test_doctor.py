"""doctor: a verdict per line, and an exit status."""

import os
import subprocess
import sys

import pytest

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "resnet", "SLURM_NNODES": "2", "SLURM_JOB_CPUS_PER_NODE": "8(x2)"}
JOB |= {"SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "2(x2)"}


@pytest.fixture
def job(monkeypatch):
    def be(**variables):
        for name, value in (JOB | variables).items():
            monkeypatch.setenv(name, value)

    return be


def test_a_desk(cli, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tar").write_bytes(os.urandom(10**6))
    result = cli("doctor --data data --stage-to .")
    assert result.status == 0, result.out
    for line in ("ok    Slurm", "run directory", "staging directory", "random reads", "offline", "versions"):
        assert line in result.out
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


@pytest.mark.parametrize(
    ("variables", "options", "line"),
    [
        ({"SLURM_NTASKS": "3", "SLURM_TASKS_PER_NODE": "2,1"}, "", "BAD   tasks                  3 tasks (2, 1 on"),
        ({}, "--devices 4", "use --nodes=2 --ntasks-per-node=4"),
        ({"SLURM_GPUS_ON_NODE": "2"}, "", "but 2 are allocated on this node: training would run on CPUs"),
        ({"SLURM_JOB_CPUS_PER_NODE": "1(x2)"}, "", "BAD   CPUs"),
        ({"SLURM_JOB_NAME": "bash", "ENVIRONMENT": "BATCH"}, "", "--job-name=resnet"),
        ({}, "--data nowhere", "no files under"),
    ],
)
def test_what_would_fail_or_waste(cli, job, variables, options, line):
    job(**variables)
    result = cli(f"doctor {options}")
    assert result.status == 1
    assert line in result.out


def test_a_sound_job(cli, job, monkeypatch):
    job(SRUN_CPUS_PER_TASK="2")
    result = cli("doctor")
    assert result.status == 0, result.out
    assert "ok    tasks                  2 nodes x 2 tasks" in result.out
    assert "warn  CPUs                   4 a task of 8 on a node, but SRUN_CPUS_PER_TASK=2" in result.out
    assert "signal margin" in result.out


def test_without_torch():
    code = "import sys; from reslightning.__main__ import main; main(['doctor']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("False\n"), done.stderr


@pytest.mark.parametrize("kind", ["link to nowhere", "pipe", "loop"])
def test_what_is_no_data_beside_data(cli, tmp_path, kind):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("data")
    odd = tmp_path / "data" / "odd"
    os.mkfifo(odd) if kind == "pipe" else odd.symlink_to("odd" if kind == "loop" else "nowhere")
    result = cli("doctor --data data")
    assert result.status == 0, result.err
    assert "in 1 files" in result.out


def test_a_number_of_cpus_that_is_none(cli, job):
    job(SRUN_CPUS_PER_TASK="all")
    assert "but SRUN_CPUS_PER_TASK=all" in cli("doctor").out


@pytest.mark.parametrize("value", ["", "~/data"])
def test_where_data_is_by_the_variable(cli, tmp_path, monkeypatch, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("data")
    monkeypatch.setenv("RESLIGHTNING_DATA", value)
    assert ("in 1 files" if value else "none given") in cli("doctor").out


def test_devices_without_a_job_are_compared_with_nothing(cli):
    assert "warn  tasks" in cli("doctor --devices 4").out
