"""Runs that were stopped or killed go on to the same weights, rows and best values, bit for bit."""

import os
import random
import signal
import subprocess
import time

import pytest

from reslightning.run.lock import Lock
from reslightning.train.classifier import ImageClassifier
from tests.conftest import OPTIONS, SMALL, assert_same_result, checkpoint, process, rows, summary
from tests.ranks import start

NOTE = "--trainer.callbacks+=tests.observers.Note --trainer.callbacks.file {file}"
STRIKE = (
    "--trainer.callbacks+=tests.observers.Strike --trainer.callbacks.mark {mark} "
    "--trainer.callbacks.step {step} --trainer.callbacks.place '{place}' --trainer.callbacks.name {name}"
)


PLAIN, EMA = "", "--model.ema_decay 0.9"


@pytest.mark.parametrize(
    ("step", "place", "name", "status", "extra"),
    [
        (0, "train", "SIGTERM", 75, EMA),
        (6, "train", "SIGINT", 130, EMA),
        (6, "train", "SIGTERM", 75, PLAIN),
        (9, "train", "SIGTERM", 75, EMA),  # behind an epoch's last step comes validation
        (5, "val", "SIGTERM", 75, EMA),
        (5, "val", "SIGINT", 130, PLAIN),
        (10, "val", "SIGINT", 130, EMA),
        (5, "epoch end", "SIGUSR2", 75, EMA),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(cli, finished, tmp_path, step, place, name, status, extra):
    reference = finished(cli, extra)
    run = tmp_path / "run"
    strike = STRIKE.format(mark=tmp_path / "mark", step=step, place=place, name=name)
    note = NOTE.format(file=tmp_path / "note")
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir {run} {extra} {strike} {note}"
    stopped = cli(line)
    assert stopped.status == status
    assert (tmp_path / "mark").read_text() == f"{place} {step}"
    first = summary(run)
    assert first["status"] == "preempted"
    assert f"stopped by {name} at step {first['global_step']}" in stopped.out
    resumed = cli(line)
    assert resumed.status == 0
    assert f"step {first['global_step']}" in resumed.out
    assert_same_result(run, reference)
    steps = [line.split()[:2] for line in (tmp_path / "note.0").read_text().splitlines()]
    assert steps == [[str(step // 5), str(step)] for step in range(15)]
    second = summary(run)
    assert second["best"] == summary(reference)["best"]
    assert second["run_id"] == first["run_id"]
    assert [(part["from_step"], part["to_step"]) for part in second["segments"]] == [
        (0, first["global_step"]),
        (first["global_step"], 15),
    ]
    third = cli(line)
    assert third.status == 0
    assert "finished: 3 epochs" in third.out
    assert len(steps) == len((tmp_path / "note.0").read_text().splitlines())


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGUSR2", 75)])
def test_what_a_signal_breaks_is_the_stop_that_it_asked_for(cli, finished, tmp_path, monkeypatch, name, status):
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir {tmp_path / 'run'}"
    own = ImageClassifier.training_step

    def breaks(module, batch, batch_idx):
        if module.global_step == 7:
            os.kill(os.getpid(), getattr(signal, name))  # as to the whole group, the compiler within it
            raise RuntimeError("the C++ compiler was ended")
        return own(module, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(ImageClassifier, "training_step", breaks)
        stopped = cli(line)
    assert stopped.status == status
    assert f"stopped by {name} at step 5: the same command goes on from there" in stopped.out
    assert summary(tmp_path / "run")["status"] == "preempted"
    assert cli(line).status == 0
    assert_same_result(tmp_path / "run", finished(cli))


def test_what_breaks_without_a_signal_is_an_error(cli, tmp_path, monkeypatch):
    def breaks(module, batch, batch_idx):
        raise RuntimeError("the C++ compiler failed")

    monkeypatch.setattr(ImageClassifier, "training_step", breaks)
    with pytest.raises(RuntimeError, match="compiler failed"):
        cli(f"fit {SMALL} --trainer.max_epochs 3 --run_dir {tmp_path / 'run'}")
    assert summary(tmp_path / "run")["status"] == "failed"


def test_workers_change_neither_order_nor_bits(cli, finished, tmp_path):
    reference = finished(cli)
    run = tmp_path / "run"
    strike = STRIKE.format(mark=tmp_path / "mark", step=7, place="train", name="SIGTERM")
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir {run} --data.num_workers 2 {strike}"
    assert cli(line).status == 75
    assert cli(line).status == 0
    assert_same_result(run, reference)


def test_a_run_goes_on_to_the_same_bits_whether_its_blocks_are_computed_again_or_not(cli, finished, tmp_path):
    strike = STRIKE.format(mark=tmp_path / "mark", step=6, place="train", name="SIGTERM")
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir {tmp_path}/run {strike} --model.activation_checkpointing"
    assert cli(f"{line} true").status == 75
    assert cli(f"{line} false").status == 0
    assert_same_result(tmp_path / "run", finished(cli))
    assert "nothing to do" in cli(f"{line} true").out


def test_accumulated_and_limited_epochs_resume(cli, tmp_path):
    line = (
        f"fit {SMALL} --trainer.max_epochs 3 --trainer.accumulate_grad_batches 2 --trainer.limit_train_batches 8 "
        "--data.val_split 100 --run_dir"
    )
    assert cli(f"{line} {tmp_path}/reference").status == 0
    strike = STRIKE.format(mark=tmp_path / "mark", step=6, place="train", name="SIGTERM")
    assert cli(f"{line} {tmp_path}/run {strike}").status == 75
    assert cli(f"{line} {tmp_path}/run {strike}").status == 0
    assert_same_result(tmp_path / "run", tmp_path / "reference")
    assert summary(tmp_path / "run")["val_source"] == "held-out"
    assert "best.ckpt" in cli(f"test --run_dir {tmp_path}/run").out


def test_a_run_that_was_killed_drops_what_lies_behind_its_checkpoint(cli, finished, tmp_path):
    reference = finished(cli)
    run = tmp_path / "run"
    strike = STRIKE.format(mark=tmp_path / "mark", step=7, place="train", name="SIGTERM")
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir {run} {strike}"
    assert cli(line).status == 75
    # As if a row had been written, and half of another, before the process was killed.
    with (run / "metrics.csv").open("a") as file:
        file.write("2,10,0.5,0.5,0.5,0.5,0.5,359,0.1,1000.0\n3,15,0.")
    assert cli(line).status == 0
    assert_same_result(run, reference)


def test_training_goes_on_from_a_checkpoint_of_another_run(cli, finished, tmp_path):
    other = finished(cli)
    result = cli(
        f"fit {SMALL} --trainer.max_epochs 4 --ckpt_path {other}/checkpoints/last.ckpt --run_dir {tmp_path}/run"
    )
    assert result.status == 0
    assert "continues behind epoch 3, at step 15" in result.out
    found = summary(tmp_path / "run")
    assert found["global_step"] == 20
    assert found["best"]["epoch"] == 4  # its own, not the other run's
    result = cli(f"fit {SMALL} --model.arch resnet14 --ckpt_path {other}/checkpoints/last.ckpt --run_dir {tmp_path}/x")
    assert result.status == 2
    assert "missing     model.layer1.1.conv1.weight" in result.err
    assert not (tmp_path / "x").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_before_training(cli, small_disk):
    result = cli(f"fit {SMALL} --run_dir {small_disk}/run")
    assert result.status == 2
    assert "has no room for checkpoints: 1.8 MB are needed, 1.0 MB are free" in result.err


def test_a_full_disk_while_checkpointing(cli, finished, small_disk, monkeypatch):
    reference = finished(cli)
    monkeypatch.setattr("reslightning.run.directory.Run.check_space", lambda self, size: None)
    # The first checkpoint fits; another beside it, while it is written, does not.
    line = f"fit {SMALL} --trainer.max_epochs 3 --checkpoint_minutes 0 --run_dir {small_disk}/run"
    result = cli(line)
    assert result.status == 1
    assert "no room for" in result.err
    assert "0.6 MB are needed" in result.err
    assert checkpoint(small_disk / "run")["global_step"] == 1
    assert not list(small_disk.glob("**/.*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    again = cli(line)
    assert again.status == 0
    assert "at step 1" in again.out
    assert_same_result(small_disk / "run", reference)


def test_a_checkpoint_now_and_then_is_what_a_kill_goes_back_to(cli, finished, tmp_path, monkeypatch):
    """Without a signal or an epoch's end: the checkpoint of the interval is the only loss."""
    reference = finished(cli)
    poison = "--trainer.callbacks+=tests.observers.Poison --trainer.callbacks.step 8 --trainer.callbacks.mark {}"
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir {tmp_path}/run"
    assert cli(f"{line} --checkpoint_minutes 0 {poison.format('mark')}").status == 1
    assert checkpoint(tmp_path / "run")["global_step"] == 8
    assert "at step 8" in cli(line).out
    assert_same_result(tmp_path / "run", reference)
    assert cli(f"{line.replace('/run', '/other')} {poison.format('mark2')}").status == 1
    assert checkpoint(tmp_path / "other")["global_step"] == 5  # ten minutes are not over: an epoch's


@pytest.mark.slow
def test_twenty_kills_while_a_checkpoint_is_written(tmp_path):
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    print(f"seed {seed}")

    def fit(line: str) -> int:
        process = start(line, tmp_path / "out")
        process.join(120)
        return process.exitcode

    line = f"fit {OPTIONS} --trainer.max_epochs 8 --checkpoint_minutes 0 --run_dir {tmp_path}"
    assert fit(f"{line}/reference") == 0
    mark = tmp_path / "mark"
    line += "/run --trainer.callbacks+=tests.observers.Die --trainer.callbacks.point orders"
    line += f" --trainer.callbacks.mark {mark}"
    points = ["before", "writing", "writing", "syncing", "renaming", "renamed"]
    for number in range(20):
        point = points[number % len(points)]
        mark.unlink(missing_ok=True)
        (tmp_path / "orders").write_text(f"{point} {rng.choice([2, 3])} {rng.random():.3f}")
        assert fit(line) == -signal.SIGKILL, (tmp_path / "out").read_text()
        assert mark.read_text() == point
        assert checkpoint(tmp_path / "run")["state_dict"]
    assert fit(line) == 0
    assert_same_result(tmp_path / "run", tmp_path / "reference")
    assert not list(tmp_path.glob("run/**/.*.tmp"))


@pytest.mark.slow
def test_processes_one_writer_ctrl_c_and_kill(cli, tmp_path):
    """Real processes: the second is refused, Ctrl-C is resumable, a killed holder's lock is taken."""
    run = tmp_path / "run"
    line = f"fit {OPTIONS} --trainer.max_epochs 60 --run_dir {run}"

    def wait_for(holder, epochs):
        deadline = time.monotonic() + 120
        while not ((run / "summary.json").exists() and summary(run)["epoch"] >= epochs):
            assert holder.poll() is None, holder.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    holder = process(line)
    wait_for(holder, 1)
    refused = cli(line)
    assert refused.status == 2
    assert f"process {holder.pid} on {os.uname().nodename}" in refused.err
    holder.send_signal(signal.SIGINT)
    out, _ = holder.communicate(timeout=60)
    assert holder.returncode == 130, out
    reached = summary(run)["epoch"]
    holder = process(line)
    wait_for(holder, reached + 2)
    holder.kill()
    holder.communicate()
    assert summary(run)["status"] == "running"
    lock = Lock(run / "lock")
    lock.acquire()
    lock.release()
    killed_at = checkpoint(run)["global_step"]
    holder = process(line)
    wait_for(holder, killed_at // 5 + 1)
    holder.send_signal(signal.SIGTERM)
    out, _ = holder.communicate(timeout=60)
    assert holder.returncode == 75, out
    assert f"step {killed_at}" in out
    steps = [int(row["step"]) for row in rows(run)]
    assert steps == list(range(5, 5 * len(steps) + 1, 5))
