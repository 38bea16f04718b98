"""slurm/train.sh and array.sh: stopped, killed and requeued jobs end with the bits of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import OPTIONS, assert_same_result, summary
from tests.slurm.conftest import Job, command, wait_for

pytestmark = pytest.mark.cluster
TWO = ("--nodes=2", "--ntasks-per-node=1")
LINE = f"-c digits {OPTIONS} --trainer.max_epochs 3".replace("--wandb.mode disabled", "--wandb.mode offline")
NOTE = " --trainer.callbacks+=tests.observers.Note --trainer.callbacks.file {}/note"
POINTS = ("before", "writing", "syncing", "renaming", "renamed", "rank 1")


def hold(folder: Path, *moments: str) -> str:
    folder.mkdir(exist_ok=True)
    return (
        f" --trainer.callbacks+=tests.observers.Hold --trainer.callbacks.folder {folder} "
        f"--trainer.callbacks.moments {','.join(moments)}"
    )


def reached(folder: Path, moment: str, job) -> None:
    def there() -> bool:
        assert job.state not in ("COMPLETED", "FAILED"), job.output()
        return (folder / moment).exists()

    wait_for(there, 180, f"the job waits at {moment}:\n{job.output()}")


def tasks(run: Path) -> list[int]:
    """Return the process ids of the run's tasks, the first task's first."""
    found = {}
    for pid in command("pgrep", "-f", f"python -u -m reslightning fit .*{run}").split():
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        rank = [entry for entry in environ if entry.startswith(b"SLURM_PROCID=")]
        if rank and b"srun" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
            found[int(rank[0].partition(b"=")[2])] = int(pid)
    return [found[rank] for rank in sorted(found)]


def daemon(job) -> int:
    """Return the process id of the step's daemon on the second node."""
    found = command("pgrep", "-f", rf"slurmstepd: \[{job.number}\.0\]").split()
    assert len(found) == 2
    (number,) = [pid for pid in found if b"SLURMD_NODENAME=n2" in children(pid)]
    return int(number)


def children(pid: str) -> bytes:
    found = command("pgrep", "-P", pid).split()
    return b"".join(Path(f"/proc/{child}/environ").read_bytes() for child in found)


def steps(folder: Path) -> list[int]:
    return [int(line.split()[1]) for line in (folder / "note.0").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The run directory of an undisturbed job, which the first test makes."""
    return tmp_path_factory.mktemp("undisturbed") / "run"


@pytest.fixture
def reference(undisturbed, sbatch) -> Path:
    if not undisturbed.exists():
        job = sbatch(*TWO, arguments=f"{LINE} --run_dir {undisturbed}")
        assert job.wait() == "COMPLETED", job.output()
    return undisturbed


def test_two_nodes_count_every_sample_once(reference):
    found = summary(reference)
    assert (found["status"], found["world_size"]) == ("finished", 2)
    assert found["metrics"]["val/n_samples"] == found["n_samples"]["val"] == 359
    assert [part["job"] for part in found["segments"]] != [None]


def test_signalled_three_times(reference, sbatch, tmp_path):
    """Every process of the step gets the signal, loader workers too; the job is requeued once for each."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    # One in each of the two epochs of five steps; two tasks stop a step later, but before a validation at once.
    one, other = (random.Random(seed + first).randrange(first, first + 4) for first in (6, 11))
    moments = ["val:5", f"train:{one}", f"train:{other}"]
    run, marks = tmp_path / "run", tmp_path / "marks"
    line = f"{LINE} --data.num_workers 1 --run_dir {run}{NOTE.format(tmp_path)}{hold(marks, *moments)}"
    job = sbatch(*TWO, arguments=line)
    for number, moment in enumerate(moments, 1):
        reached(marks, moment, job)
        job.signal("USR2")
        (marks / f"{moment}.go").touch()
        wait_for(lambda n=number: job.show("Restarts") == str(n), 60, f"restart {number}")
    assert job.wait() == "COMPLETED", job.output()
    assert job.show("Restarts") == "3"
    assert job.output().count("is requeued") == 3
    assert_same_result(run, reference)
    assert steps(tmp_path) == list(range(15))
    found = summary(run)
    assert [part["job"] for part in found["segments"]] == [job.number] * 4
    assert [part["to_step"] for part in found["segments"]] == [5, min(one + 2, 10), min(other + 2, 15), 15]
    assert all(part["recorded"] for part in found["segments"])  # and sync uploads the recordings as they are
    parts = [path.name for path in (run / "wandb").glob("offline-run-*")]
    assert len(parts) == 4
    assert {name.rpartition("-")[2] for name in parts} == {found["run_id"]}
    assert [path.name for path in tmp_path.glob("r*")] == ["run"]


def test_killed_in_three_ways(reference, sbatch, tmp_path):
    """One task, both tasks, and all that belongs to the step: each loses what the interval allows, here nothing."""
    moments = ["train:4", "train:7", "val:10"]
    run, marks = tmp_path / "run", tmp_path / "marks"
    line = f"{LINE} --checkpoint_minutes 0 --run_dir {run}{NOTE.format(tmp_path)}{hold(marks, *moments)}"
    job = sbatch(*TWO, arguments=line)
    for number, moment in enumerate(moments, 1):
        reached(marks, moment, job)
        killed = tasks(run)
        assert len(killed) == 2
        killed = killed[1:] if number == 1 else killed
        if number == 3:  # one node's whole step, its daemon first
            killed = [daemon(job), killed[1]]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        (marks / f"{moment}.go").touch()  # lets a survivor find out
        wait_for(lambda n=number: job.show("Restarts") == str(n), 90, f"restart {number}")
        assert summary(run)["status"] != "failed"  # it waits in the queue
    assert job.wait() == "COMPLETED", job.output()
    assert_same_result(run, reference)
    found = summary(run)
    # The last kill was behind an epoch's last step, before its checkpoint: one step is trained again.
    assert [part["from_step"] for part in found["segments"]] == [0, 4, 7, 9]
    assert not list(run.glob("**/.*.tmp"))


def die(folder: Path, point: str, rng: random.Random) -> str:
    return (
        f" --trainer.callbacks+=tests.observers.Die --trainer.callbacks.mark {folder}/mark "
        f"--trainer.callbacks.point {point.partition(' ')[0]} --trainer.callbacks.count {rng.randrange(1, 10)} "
        f"--trainer.callbacks.share {rng.random():.3f} --trainer.callbacks.rank {int(point == 'rank 1')}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_random_faults(reference, sbatch, tmp_path, number):
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    # Each named point of saving once, then whatever the seed says.
    way = POINTS[number] if number < len(POINTS) else rng.choice([*POINTS, "USR2", "one task", "both tasks", "step"])
    run, marks = tmp_path / "run", tmp_path / "marks"
    line = f"{LINE} --checkpoint_minutes 0 --run_dir {run}"
    print(f"seed {seed}: {way}")
    if way in POINTS:
        job = sbatch(*TWO, arguments=line + die(tmp_path, way, rng))
    else:
        step = rng.randrange(15)
        moment = f"val:{step // 5 * 5 + 5}" if rng.random() < 0.3 else f"train:{step}"
        job = sbatch(*TWO, arguments=line + hold(marks, moment))
        reached(marks, moment, job)
        killed = tasks(run)[-1:] if way == "one task" else tasks(run)
        if way == "step":
            killed = [daemon(job), killed[-1]]
        if way == "USR2":
            job.signal("USR2")
        else:
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        (marks / f"{moment}.go").touch()
    assert job.wait() == "COMPLETED", job.output()
    assert job.show("Restarts") == "1", job.output()
    if way in POINTS:
        assert (tmp_path / "mark").read_text() == way.partition(" ")[0]
    assert_same_result(run, reference)


@pytest.mark.slow
def test_a_lost_first_node(reference, sbatch, tmp_path):
    """srun does not notice that the daemons of all its step are gone; two minutes of silence tell."""
    run, marks = tmp_path / "run", tmp_path / "marks"
    job = sbatch(*TWO, arguments=f"{LINE} --checkpoint_minutes 0 --run_dir {run}{hold(marks, 'train:7')}")
    reached(marks, "train:7", job)
    daemons = command("pgrep", "-f", rf"slurmstepd: \[{job.number}\.0\]").split()
    assert len(daemons) == 2
    for pid in [*map(int, daemons), *tasks(run)]:
        os.kill(pid, signal.SIGKILL)
    assert job.wait() == "COMPLETED", job.output()
    assert job.show("Restarts") == "1"
    assert_same_result(run, reference)


def test_a_mismatch_is_refused_at_once(sbatch, tmp_path):
    uneven = sbatch("--nodes=2", "--ntasks=3", arguments=f"{LINE} --run_dir {tmp_path}/run")
    assert uneven.wait() == "FAILED"
    assert "Use --nodes=2 --ntasks-per-node=2" in uneven.output()
    named = sbatch(*TWO, "--job-name=interactive", arguments=f"{LINE} --run_dir {tmp_path}/run")
    assert named.wait() == "FAILED"
    assert "--job-name=resnet" in named.output()
    devices = sbatch(*TWO, arguments=f"{LINE} --trainer.devices 2 --run_dir {tmp_path}/run")
    assert devices.wait() == "FAILED"
    assert "Use --nodes=2 --ntasks-per-node=2" in devices.output()
    assert devices.output().count("do not match") == 1
    assert not (tmp_path / "run").exists()


def test_a_manifest_as_a_job_array(sbatch, tmp_path):
    short = f"{OPTIONS} --trainer.max_epochs 1"
    slip, typo = f"{short} --wandb.notes=it's --seed_everything 1", f"{short} --trainer.max_epoch 2"
    manifest = tmp_path / "runs.txt"
    manifest.write_text(f"# runs\n-c digits {short} --run_dir '{tmp_path}/a b'\n\n{slip}\n{typo}\n")
    job = sbatch("--array=1-4", script="array.sh", arguments=str(manifest))
    assert wait_for(lambda: not command("squeue", "-h"), 120, "the array has ended")
    facts = summary(tmp_path / "a b")
    assert facts["segments"][0]["job"] == f"{job.number}_1"
    partition = command("sinfo", "-h", "-o", "%R").strip()
    assert (facts["group"], facts["tags"]) == ("reslightning", [f"job-{job.number}_1", partition])
    said = ("line 4 of", "unknown option 'trainer.max_epoch'", "task 4 is out of range")
    for task, words in enumerate(said, 2):
        refused = Job(f"{job.number}_{task}")
        assert (refused.state, refused.show("ExitCode")) == ("FAILED", "2:0")
        assert refused.output().count(words) == 1
    assert "use --array=1-3" in refused.output()
    assert not (tmp_path / "runs").exists()


def array(sbatch, folder: Path, count: int) -> list[Job]:
    """Submit an array of runs that wait before their third step, and return its tasks."""
    runs = [f"-c digits {OPTIONS} --trainer.max_epochs 2 --run_dir {folder}/run{n}" for n in range(1, count + 1)]
    lines = [run + hold(folder / f"marks{n}", "train:2") for n, run in enumerate(runs, 1)]
    (folder / "runs.txt").write_text("\n".join(lines))
    whole = sbatch(f"--array=1-{count}", script="array.sh", arguments=str(folder / "runs.txt"))
    jobs = [Job(f"{whole.number}_{n}") for n in range(1, count + 1)]
    for n, job in enumerate(jobs, 1):
        reached(folder / f"marks{n}", "train:2", job)
    assert jobs[-1].show("JobId") == whole.number  # the last task has the array's own id
    return jobs


def test_an_array_of_two_to_its_end(sbatch, tmp_path):
    """The last one is signalled and goes on where it was; the first one is not disturbed."""
    jobs = array(sbatch, tmp_path, 2)
    jobs[1].signal("USR2")
    for n, job in enumerate(jobs, 1):
        (tmp_path / f"marks{n}" / "train:2.go").touch()
        assert job.wait() == "COMPLETED", job.output()
        assert job.show("Restarts") == str(n - 1)
        found = summary(tmp_path / f"run{n}")
        assert (found["status"], len(found["segments"])) == ("finished", n)


@pytest.mark.parametrize("cancelled", [3, 1])
def test_one_of_three_is_cancelled(sbatch, tmp_path, cancelled):
    """Its siblings go on to their ends."""
    jobs = array(sbatch, tmp_path, 3)
    subprocess.run(["scancel", jobs[cancelled - 1].number], check=True)
    assert jobs[cancelled - 1].wait() == "CANCELLED"
    for n, job in enumerate(jobs, 1):
        (tmp_path / f"marks{n}" / "train:2.go").touch()
        if n != cancelled:
            assert job.wait() == "COMPLETED", job.output()
            assert job.show("Restarts") == "0"
            found = summary(tmp_path / f"run{n}")
            assert (found["status"], len(found["segments"])) == ("finished", 1)
    assert summary(tmp_path / f"run{cancelled}")["status"] != "finished"


def test_the_scripts_are_clean():
    scripts = [str(path) for path in Path(__file__).parents[2].glob("slurm/*.sh")]
    assert len(scripts) == 2
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
