"""A live holder is refused by name, a dead one is taken over."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reslightning.errors import UserError
from reslightning.run.lock import DEAD_AFTER, Lock

HOLD = """
import sys, time
from pathlib import Path
from reslightning.run.lock import Lock
Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_live_holder_is_named_and_a_dead_one_is_taken_over(tmp_path):
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on {os.uname().nodename}"):
        Lock(lock).acquire()
    holder.kill()
    holder.communicate()
    mine = Lock(lock)
    mine.acquire()
    assert json.loads(lock.read_text())["pid"] == os.getpid()
    mine.release()
    assert not lock.exists()


def test_a_live_holder_of_an_older_version_is_refused_too(tmp_path):
    """It holds the file by lockf, which flock does not see."""
    lock = tmp_path / "lock"
    held = "import fcntl, sys, time; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True)"
    lock.touch()
    holder = subprocess.Popen([sys.executable, "-c", f"{held}; time.sleep(60)", str(lock)], stdout=subprocess.PIPE)
    holder.stdout.readline()
    lock.write_text(json.dumps({"host": os.uname().nodename, "pid": holder.pid, "job": None}))
    with pytest.raises(UserError, match=f"process {holder.pid} on {os.uname().nodename}"):
        Lock(lock).acquire()
    holder.kill()
    holder.communicate()
    mine = Lock(lock)
    mine.acquire()
    mine.release()


def test_a_holder_on_another_host_lives_while_it_shows_signs_of_life(tmp_path):
    lock = tmp_path / "lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": "17_3"}))
    with pytest.raises(UserError, match="process 1 on elsewhere, Slurm job 17_3"):
        Lock(lock).acquire()
    silent = time.time() - DEAD_AFTER - 1
    os.utime(lock, (silent, silent))
    Lock(lock).acquire()


def test_a_job_waits_for_a_sign_of_life(tmp_path, monkeypatch, capsys):
    """The job before it in a chain may just have been killed on another node."""
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    monkeypatch.setattr("reslightning.run.lock.POLL", 0.05)
    monkeypatch.setattr("reslightning.run.lock.DEAD_AFTER", 0.5)
    lock = tmp_path / "lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": "17"}))
    mine = Lock(lock)
    mine.acquire()
    assert json.loads(lock.read_text())["job"] == "18"
    mine.release()
    assert "waiting for a sign of life" in capsys.readouterr().out
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": "17"}))
    beat = threading.Timer(0.2, os.utime, [lock])
    beat.start()
    with pytest.raises(UserError, match="process 1 on elsewhere, Slurm job 17"):
        Lock(lock).acquire()
    beat.join()
