"""A live holder is refused by name, a dead one is taken over."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reslightning.errors import UserError
from reslightning.lock import DEAD_AFTER, Lock

HOLD = """
import sys, time
from pathlib import Path
from reslightning.lock import Lock
Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_live_holder_is_named_and_a_dead_one_is_taken_over(tmp_path):
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
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


def test_a_holder_on_another_host_lives_while_it_shows_signs_of_life(tmp_path):
    lock = tmp_path / "lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": "17_3"}))
    with pytest.raises(UserError, match="process 1 on elsewhere, Slurm job 17_3"):
        Lock(lock).acquire()
    silent = time.time() - DEAD_AFTER - 1
    os.utime(lock, (silent, silent))
    Lock(lock).acquire()
