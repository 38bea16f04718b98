"""A job's environment, and small scripts in place of Slurm's programs."""

from __future__ import annotations

import os
import stat

import pytest


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
