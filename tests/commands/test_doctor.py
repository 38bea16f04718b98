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
