"""A real Slurm of two nodes on this machine, for the tests of this folder; needs root."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = "# reslightning's tests"
# A requeued job waits for cred_expire, and must outlast the kill that its last start was sent.
CONF = """
ClusterName=testbed
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16917
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=8
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
KillWait=2
MinJobAge=3600
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17101 CPUs=2 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17102 CPUs=2 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Two nodes that share this machine's cores, each with two pretended GPUs and no accounting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = Path("/etc/hosts")

    def up(self) -> None:
        host = socket.gethostname().partition(".")[0]
        for name in ("state", "spool-n1", "spool-n2", "gpu"):
            (self.folder / name).mkdir(parents=True)
        for number in (0, 1):
            (self.folder / "gpu" / str(number)).touch()
        (self.folder / "slurm.conf").write_text(CONF.format(host=host, folder=self.folder))
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu/[0-1]\n")
        (self.folder / "cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\nCgroupAutomount=yes\nConstrainCores=no\nConstrainRAMSpace=no\n"
        )
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        # Processes meet at the first node's name.
        with self.hosts.open("a") as file:
            file.write(f"127.0.0.1 n1 n2 {MARK}\n")
        if subprocess.run(["munge", "-n"], capture_output=True).returncode:
            subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
            subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", "munged"], check=True)
        for daemon in (["slurmctld", "-c"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            subprocess.run(daemon, check=True)
        wait_for(lambda: command("sinfo", "-h", "-t", "idle", "-o", "%D") == "2", 60, "the nodes are idle")

    def down(self) -> None:
        subprocess.run(["scancel", "--user=root", "--signal=KILL"], capture_output=True)
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld"):
            pid = self.folder / f"{name}.pid"
            if pid.is_file():
                os.kill(int(pid.read_text()), 15)
        kept = [line for line in self.hosts.read_text().splitlines(keepends=True) if MARK not in line]
        self.hosts.write_text("".join(kept))


def command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def wait_for(condition, seconds: float, what: str):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        time.sleep(0.2)
    return value


@pytest.fixture(scope="session")
def _slurm(tmp_path_factory):
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's packages slurm-wlm and munge (missing: {', '.join(missing) or 'root'})")
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    slurm.up()
    yield slurm
    slurm.down()


class Job:
    """A submitted job."""

    def __init__(self, number: str) -> None:
        self.number = number

    def show(self, field: str) -> str:
        """Return one of the job's fields."""
        found = re.search(rf"\b{field}=(\S+)", command("scontrol", "show", "job", self.number))
        return found[1] if found else ""

    @property
    def state(self) -> str:
        return self.show("JobState")

    def wait(self, *states: str, seconds: float = 300) -> str:
        """Wait until the job is in one of the states, by default at its end."""
        ends = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        try:
            return wait_for(lambda: self.state in ends and self.state, seconds, f"job {self.number} is {ends}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.state}\n{self.output()}") from None

    def output(self) -> str:
        path = Path(self.show("StdOut"))
        return path.read_text() if path.is_file() else ""

    def signal(self, name: str, *options: str) -> None:
        subprocess.run(["scancel", f"--signal={name}", *options, self.number], check=True)


@pytest.fixture
def slurm(_slurm, tmp_path, monkeypatch):
    """The cluster, with this environment's python and this checkout's package in every job."""
    for name in [name for name in os.environ if name.startswith(("SBATCH_", "SLURM_")) and name != "SLURM_CONF"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}")
    yield _slurm
    # What a failed test left must not disturb the next one.
    subprocess.run(["scancel", "--user=root", "--signal=KILL"], capture_output=True)
    subprocess.run(["scancel", "--user=root"], capture_output=True)
    wait_for(lambda: not command("squeue", "-h"), 60, "the queue is empty")


@pytest.fixture
def sbatch(slurm):
    """Submit a script of slurm/: ``sbatch("--nodes=2", script="train.sh", arguments="-c digits")``."""

    def submit(*options: str, script: str = "train.sh", arguments: str = "") -> Job:
        words = ["sbatch", "--parsable", *options, str(ROOT / "slurm" / script), *arguments.split()]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return Job(done.stdout.strip())

    return submit
