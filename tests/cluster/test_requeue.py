"""How a job starts again: signs of life, signals, kills; scontrol and pkill are small scripts here."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from reslightning import __main__, slurm
from reslightning.cluster import requeue
from reslightning.cluster.allocation import check
from reslightning.commands import train
from reslightning.errors import DivergedError, LostProcessError, UserError, stop_wanted
from reslightning.run.lock import Lock
from tests.cluster.conftest import program
from tests.conftest import SMALL, assert_same_result, summary


def test_requeue_says_what_came_of_it(job, tmp_path, monkeypatch):
    job(SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="3")
    program(tmp_path, monkeypatch, "scontrol", f'echo "$@" > {tmp_path}/asked')
    assert requeue.requeue() == "Slurm job 5_3 is requeued"
    assert (tmp_path / "asked").read_text() == "requeue 5_3\n"
    program(tmp_path, monkeypatch, "scontrol", "echo Requested operation is presently disabled >&2; exit 1")
    assert "not requeued (Requested operation is presently disabled): its next segment goes on" in requeue.requeue()
    monkeypatch.setenv("PATH", "")
    assert "scontrol is not installed here" in requeue.requeue()
    assert "--dependency=afterany:5_3" in requeue.requeue()


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
    requeue.begun(tmp_path)
    assert requeue.ended(137) == 137
    assert "is requeued" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "error", "requeued"),
    [
        ("0", UserError("a slip"), False),
        ("1", UserError("a slip"), True),  # its node's alone perhaps; what was killed beside it counts
        ("0", DivergedError("not finite"), False),
        ("0", LostProcessError("gone"), True),
    ],
)
def test_what_the_first_task_would_fail_of_again_is_not_requeued_for_a_task_that_was_killed_behind_it(
    job, tmp_path, monkeypatch, task, error, requeued
):
    job(SLURM_PROCID=task)
    monkeypatch.setattr(__main__, "LEADER_FIRST", 0)
    monkeypatch.setenv("RESLIGHTNING_ALIVE", str(tmp_path / "marker"))
    monkeypatch.setattr(train, "main", Mock(side_effect=error))
    program(tmp_path, monkeypatch, "scontrol", f"echo $1 >> {tmp_path}/asked; echo JobState=RUNNING")
    (tmp_path / "marker").touch()
    assert __main__.main(["fit"]) == (2 if isinstance(error, UserError) else 1)
    assert slurm.main(["ended", "137"]) == (137 if requeued else 2)
    assert (tmp_path / "asked").exists() == requeued
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("killed_by", "before", "held", "after"),
    [
        (137, "running", False, "preempted"),  # the first task itself, say for its memory
        (139, "running", False, "preempted"),
        (137, "running", True, "running"),  # somebody goes on already
        (137, "finished", False, "finished"),
        (1, "running", False, "running"),
    ],
)
def test_a_first_task_that_was_killed_leaves_the_status_that_is_so(
    job, tmp_path, monkeypatch, killed_by, before, held, after
):
    job()
    program(tmp_path, monkeypatch, "scontrol", f"[ $1 = requeue ] && touch {tmp_path}/asked; echo JobState=RUNNING")
    (tmp_path / "marker").touch()
    monkeypatch.setenv("RESLIGHTNING_ALIVE", str(tmp_path / "marker"))
    run = tmp_path / "a run"
    facts = {"format": 1, "status": before, "global_step": 7, "seconds": 61.5, "heartbeat": "2026-01-02T03:04:05+00:00"}
    facts["segments"] = [{"from_step": 0, "to_step": 7, "seconds": 61.5}]
    run.mkdir()
    (run / "summary.json").write_text(json.dumps(facts))
    requeue.begun(run)
    holder = Lock(run / "lock")
    if held:
        holder.acquire()
    assert slurm.main(["ended", str(killed_by)]) == killed_by
    holder.release()
    assert summary(run) == facts | {"status": after}
    assert (tmp_path / "asked").exists() == (killed_by > 128)


@pytest.mark.parametrize(
    ("training", "silence", "wakes", "lost"),
    [
        (True, requeue.SILENCE + 1, False, True),
        (True, requeue.SILENCE + 1, True, False),  # a suspended job gives its next sign in time
        (True, requeue.SILENCE - 30, False, False),
        (False, requeue.SILENCE + 1, False, False),  # training has not begun: data may take its time
    ],
)
def test_a_lost_first_task_is_noticed(tmp_path, monkeypatch, training, silence, wakes, lost):
    marker, asked, looks = tmp_path / "marker", tmp_path / "asked", []
    marker.touch()
    monkeypatch.setenv("RESLIGHTNING_ALIVE", str(marker))
    program(tmp_path, monkeypatch, "pkill", f'echo "$@" > {asked}')
    if training:
        requeue.begun(tmp_path)
    os.utime(marker, (time.time() - silence,) * 2)

    def sleep(seconds):
        looks.append(seconds)
        if wakes and len(looks) == 3:
            requeue.beat()
        if len(looks) == 4:
            os.utime(marker, (time.time() - silence,) * 2)
        if len(looks) == requeue.LOOKS + 2:
            marker.unlink()  # the tasks ended

    with monkeypatch.context() as patch:
        patch.setattr(requeue, "time", SimpleNamespace(sleep=sleep, time=time.time))  # other threads sleep, too
        assert slurm.main(["watch", "17"]) == 0
    assert asked.exists() == lost
    if lost:
        assert asked.read_text() == "-KILL -P 17 srun\n"
        assert len(looks) == requeue.LOOKS - 1


def test_a_signal_before_training_is_kept_for_its_first_step(job, cli, finished, tmp_path, monkeypatch):
    reference = finished(cli)
    job()
    ends_the_tasks = "[ $1 = requeue ] && kill -TERM $PPID && sleep 0.2"  # as Slurm does with what it requeues
    program(tmp_path, monkeypatch, "scontrol", f"echo $1 >> {tmp_path}/asked; {ends_the_tasks}; exit 0")
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


@pytest.mark.parametrize(
    ("state", "answer", "status", "requeued"),
    [
        ("RUNNING", "exit 0", "preempted", True),  # it waits in the queue
        ("RUNNING", "echo disabled >&2; exit 1", "preempted", True),  # its next segment does
        ("COMPLETING", "exit 0", "failed", False),
        (None, "exit 0", "failed", False),  # not in a job
    ],
)
def test_a_lost_process_leaves_the_status_that_is_so(job, cli, tmp_path, monkeypatch, state, answer, status, requeued):
    if state:
        job()
    program(
        tmp_path,
        monkeypatch,
        "scontrol",
        f"echo $1 >> {tmp_path}/asked; echo JobState={state}; [ $1 = show ] || {answer}",
    )
    lose = f"--trainer.callbacks+=tests.observers.Lose --trainer.callbacks.mark {tmp_path}/mark"
    line = f"fit {SMALL} --trainer.max_epochs 1 --run_dir run {lose} --trainer.callbacks.step 2"
    lost = cli(line)
    assert lost.status == 1
    assert "another process has gone" in lost.err
    assert summary(Path("run"))["status"] == status
    asked = (tmp_path / "asked").read_text().split() if state else []
    assert ("requeue" in asked) == requeued
    if answer != "exit 0":
        assert cli(line).status == 0
        assert summary(Path("run"))["status"] == "finished"


def test_another_process_s_mistake_does_not_wait_in_the_queue(job, cli, tmp_path, monkeypatch):
    job()
    program(tmp_path, monkeypatch, "scontrol", f"echo $1 >> {tmp_path}/asked; echo JobState=RUNNING")
    lose = f"--trainer.callbacks+=tests.observers.Lose --trainer.callbacks.mark {tmp_path}/mark"
    told = f"{lose} --trainer.callbacks.step 2 --trainer.callbacks.mistake 'a.png is corrupt'"
    lost = cli(f"fit {SMALL} --trainer.max_epochs 1 --trainer.default_root_dir run --run_dir run {told}")
    assert (lost.status, lost.err) == (2, "reslightning: a.png is corrupt\n")
    assert summary(Path("run"))["status"] == "failed"
    assert not (tmp_path / "asked").exists()
