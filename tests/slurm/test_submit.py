"""reslightning submit on a real Slurm: one run, a chain of segments, a grid, a snapshot."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reslightning.commands.submission import Request
from reslightning.commands.submit import submit as python_submit
from tests.conftest import OPTIONS, assert_same_result, summary
from tests.slurm.conftest import ROOT, Job, command, wait_for
from tests.slurm.test_train import hold, reached

pytestmark = pytest.mark.cluster
FIT = f"-- fit -c digits {OPTIONS} --trainer.max_epochs 3"


def submit(line: str, status: int = 0) -> str:
    words = [sys.executable, "-m", "reslightning", "submit", *line.split()]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout + done.stderr


def jobs(out: str) -> list[Job]:
    return [Job(line.split()[1].rstrip(":")) for line in out.splitlines() if line.startswith("job ")]


def test_a_preempted_job_and_a_chain_of_segments(slurm, tmp_path):
    """Both end with the same bits: one job requeued once, and three jobs that are not requeued."""
    moments = ["train:3", "val:10"]
    chained, marks = tmp_path / "chained", tmp_path / "marks"
    line = f"--nodes 2 --segments 3 {FIT} --run_dir {chained}{hold(marks, *moments)}"
    segments = jobs(submit(line))
    assert len(segments) == 3
    for job, moment in zip(segments, moments, strict=False):
        reached(marks, moment, job)
        job.signal("USR2")
        (marks / f"{moment}.go").touch()
        assert job.wait() == "FAILED"  # status 75
        assert job.show("Restarts") == "0"
    assert segments[2].wait() == "COMPLETED", segments[2].output()
    found = summary(chained)
    assert found["status"] == "finished"
    assert [part["job"] for part in found["segments"]] == [job.number for job in segments]

    requeued, marks = tmp_path / "requeued", tmp_path / "marks2"
    out = submit(f"--nodes 2 {FIT} --run_dir {requeued}{hold(marks, 'train:7')}")
    (job,) = jobs(out)
    assert f"{requeued}, log {tmp_path}/submitted/" in out
    reached(marks, "train:7", job)
    job.signal("USR2")
    (marks / "train:7.go").touch()
    assert job.wait() == "COMPLETED", job.output()
    assert job.show("Restarts") == "1"
    assert_same_result(requeued, chained)


def test_a_grid_of_four(slurm, tmp_path):
    grid = "--grid model.arch=resnet8,plain8 seed_everything=0,1 --array-parallelism 2"
    line = f"{grid} {FIT.replace('max_epochs 3', 'max_epochs 1')}"
    out = submit(line)
    assert len(jobs(out)) == 4
    running = []

    def ended() -> bool:
        states = command("squeue", "-h", "-r", "-o", "%T").split()
        running.append(states.count("RUNNING"))
        return not states

    wait_for(ended, 300, "the grid has ended")
    assert max(running) == 2
    runs = sorted(Path("runs").iterdir())
    assert [summary(run)["status"] for run in runs] == ["finished"] * 4
    assert {(summary(run)["arch"], summary(run)["seed"]) for run in runs} == {
        ("resnet8", 0),
        ("resnet8", 1),
        ("plain8", 0),
        ("plain8", 1),
    }
    shutil.rmtree(runs[0])
    again = submit(line)
    assert again.count("finished already") == 3
    (last,) = jobs(again)
    assert last.wait() == "COMPLETED"
    assert "nothing to submit" in submit(line)
    # The same from Python, which sees its own unfinished run and queues it.
    shutil.rmtree(runs[0])
    argv = FIT.replace("max_epochs 3", "max_epochs 1").split()[2:]
    grid = ["model.arch=resnet8,plain8", "seed_everything=0,1"]
    queued = python_submit(argv, Request(array_parallelism=2), grid)
    assert list(queued) == [runs[0]]
    ((number, log),) = queued[runs[0]]
    assert Job(number).wait() == "COMPLETED", log.read_text()
    assert python_submit(argv, Request(), grid) == {}


def test_a_dry_run_s_script_is_accepted(slurm, tmp_path):
    out = submit(f"--nodes 2 --gpus 2 --cpus 1 --time 0-1 --dry-run {FIT}")
    (tmp_path / "script.sh").write_text(out)
    done = subprocess.run(["sbatch", "--test-only", "script.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr
    assert not Path("runs").exists()


def test_an_unknown_partition_is_refused_in_sbatch_s_words(slurm):
    out = submit(f"--partition nowhere {FIT}", status=2)
    assert "reslightning: sbatch: error: invalid partition specified: nowhere" in out
    assert not command("squeue", "-h")


@pytest.mark.slow
@pytest.mark.parametrize("snapshot", [True, False])
def test_an_edit_between_preemption_and_requeue(slurm, tmp_path, monkeypatch, snapshot):
    source, marks = tmp_path / "source", tmp_path / "marks"
    for name in ("reslightning", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", tmp_path / "observers" / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", f"{source}:{tmp_path}/observers")
    line = f"{'--snapshot ' if snapshot else ''}{FIT} --run_dir {tmp_path}/run{hold(marks, 'train:7')}"
    (job,) = jobs(submit(line))
    reached(marks, "train:7", job)
    with (source / "reslightning" / "train" / "optim.py").open("a") as file:
        file.write("\nEDITED = True\n")
    job.signal("USR2")
    (marks / "train:7.go").touch()
    assert job.wait() == "COMPLETED", job.output()
    found = summary(tmp_path / "run")
    codes = [part["code"] for part in found["segments"]]
    assert len(codes) == 2
    shown = subprocess.run(
        [sys.executable, "-m", "reslightning", "fit", "--run_dir", f"{tmp_path}/run"], capture_output=True, text=True
    ).stdout
    if snapshot:
        assert codes[0] == codes[1]
        assert "mixed code" not in shown
    else:
        assert codes[0] != codes[1]
        assert f"code changed at step 8: {codes[0]} before, {codes[1]} from now on" in job.output()
        assert f"mixed code: 2 versions of reslightning trained this run: {codes[0]} at steps 0-8; " in shown
