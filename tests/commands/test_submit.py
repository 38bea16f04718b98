"""submit without a Slurm: the script, what is refused, and the same grid on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from reslightning.commands.submission import grid_cells, site_variables
from tests.conftest import OPTIONS, summary


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch):
    for name in ("SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_CPUS_PER_GPU"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_script(cli, tmp_path):
    (tmp_path / "site.env").write_text("export SBATCH_PARTITION=htc SBATCH_TIMELIMIT=0-4 SBATCH_CPUS_PER_GPU=12\n")
    line = "submit --site site.env --nodes 2 --gpus a100:4 --qos public --sbatch constraint=a100_80 --dry-run -- fit"
    out = cli(line).out
    for option in (
        "nodes=2",
        "ntasks-per-node=4",
        "gpus-per-node=a100:4",
        "cpus-per-gpu=12",
        "partition=htc",
        "time=0-4",
        "qos=public",
        "constraint=a100_80",
        "requeue",
        "signal=USR2@120",
        "dependency=singleton",
    ):
        assert f"#SBATCH --{option}\n" in out
    assert "--cpus-per-task=12" in out
    assert "-m reslightning.slurm ended $?" in out
    assert "array" not in out
    assert list(tmp_path.iterdir()) == [tmp_path / "site.env"]
    # Flags win over the site, and a chain is not requeued.
    out = cli(line.replace("--qos", "--segments 3 --partition long --time 60 --cpus 3 --qos")).out
    assert "#SBATCH --partition=long\n" in out
    assert "#SBATCH --no-requeue\n" in out
    assert "cpus-per-gpu" not in out


@pytest.mark.parametrize("form", ["--sbatch exclusive= -- fit", "-- fit"])
def test_a_flag_of_sbatch_s_has_no_value(cli, monkeypatch, form):
    if "exclusive" not in form:
        monkeypatch.setenv("SBATCH_EXCLUSIVE", "")
    assert "#SBATCH --exclusive\n" in cli(f"submit --dry_run {form}").out


def test_a_site_s_own_wishes_yield_to_the_command_s(cli, monkeypatch):
    monkeypatch.setenv("SBATCH_MEM_PER_CPU", "4G")
    monkeypatch.setenv("SBATCH_REQUEUE", "1")
    assert "#SBATCH --mem-per-cpu=4G\n" in cli("submit --dry_run -- fit").out
    out = cli("submit --dry_run --mem 8G --segments 2 -- fit").out
    assert "#SBATCH --mem=8G\n" in out
    assert "mem-per-cpu" not in out
    assert "#SBATCH --no-requeue\n" in out
    assert "--requeue" not in out


def test_a_grid_s_script(cli):
    grid = "--grid model.arch=resnet20,plain20 seed_everything=0,1,2 --array-parallelism 2"
    out = cli(f"submit {grid} --snapshot --dry-run -- fit").out
    assert "#SBATCH --array=0-5%2\n" in out
    assert "PYTHONSAFEPATH=1 PYTHONPATH=" in out
    assert not Path("submitted").exists()


def test_a_dry_run_is_quick_and_without_torch(tmp_path):
    code = "import sys; from reslightning.__main__ import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    words = [sys.executable, "-c", code, "submit", "--dry-run", "--", "fit", "-c", "cifar10"]
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout.endswith("False\n"), done.stderr
    assert time.monotonic() - started < 10  # 0.8 s alone; a machine may be busy


def test_cells():
    assert grid_cells([]) == [[]]
    assert grid_cells(["a=1,2", "b=[x,y]"]) == [["--a=1", "--b=[x,y]"], ["--a=2", "--b=[x,y]"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("submit", "expected reslightning submit [OPTIONS] -- fit"),
        ("submit -- test", "submit trains"),
        ("submit --grid model.arch -- fit", "names no values"),
        ("submit --grid seed_everything=1,1 -- fit", "repeats"),
        ("submit --grid model.arhc=a,b -- fit", "did you mean 'model.arch'"),
        ("submit --sbatch exclusive -- fit", "is not KEY=VALUE"),
        ("submit --gpus many -- fit", "no number of devices"),
        ("submit --site nowhere.env -- fit", "cannot use the site's file nowhere.env"),
        ("submit --nodes 0 -- fit", "--nodes=0 is not allowed; allowed: a whole number, 1 or more"),
        ("submit -- fit --model.arch resnet9", "resnet9"),
        ("submit --nodes 3 -- fit", "not divisible by 3 devices"),
        ("submit --grid seed_everything=0,1 -- fit --run_dir x", "share a directory"),
        ("submit -- fit --trainer.devices 2", "do not match the job's 1 nodes x 1 tasks"),
        ("submit --sbatch gres=gpu:4 -- fit", "use --gpus instead"),
        ("submit --sbatch nodes=3 -- fit", "nodes=3 comes from --sbatch or SBATCH_*; use --nodes instead"),
        ("submit --sbatch ntasks=4 -- fit", "use --nodes and --gpus, or ntasks-per-node instead"),
        ("submit --sbatch job_name=x -- fit", "use --name instead"),
        ("submit --sbatch time=0-4 --time 0-2 -- fit", "sbatch's time is given twice, as 0-2 and as 0-4"),
        ("submit --sbatch cpus_per_task=4 --cpus 2 -- fit", "sbatch's cpus-per-task is given twice"),
        ("submit --sbatch qos=a qos=b -- fit", "sbatch's qos is given twice"),
        ("submit --sbatch 'comment=a\nrm -r x' -- fit", "'comment=a\\nrm -r x' is no line of a job script"),
        ("submit --account 'a\nb' -- fit", "is no line of a job script"),
        ("submit --sbatch =x -- fit", "'=x' is no line of a job script"),
        ("submit --sbatch t=1 -- fit", "sbatch's long options"),
        ("submit --gpus a100:4:2 -- fit", "--gpus=a100:4:2 is no number of devices"),
        ("submit --gpus :4 -- fit", "--gpus=:4 is no number of devices"),
        ("submit --gpus \u0663 -- fit", "is no number of devices"),
        ("submit --name %j -- fit", "--name '%j'"),
        ("submit --logs a%b -- fit", "has a %"),
        ("submit --array_parallelism 2 -- fit", "would not count without a --grid"),
        ("submit --local --segments 2 --time 60 -- fit", "--time, --segments would not count"),
        ("submit --local --snapshot -- fit", "--snapshot would not count"),
        ("submit --grid seed-everything=0 seed_everything=1 -- fit", "repeats"),
        ("submit --grid model.optim.lr=0.1,1e-1 -- fit", "their values mean the same"),
        ("submit -- fit --trainer.max_steps 3", "trainer.max_steps is not supported"),
    ],
)
def test_refused_before_anything_is_queued(cli, tmp_path, line, message):
    result = cli(line)
    assert result.status == 2
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_without_slurm(cli, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    result = cli("submit -- fit")
    assert result.status == 2
    assert "--local trains here" in result.err


@pytest.mark.slow
def test_the_same_grid_here(cli, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    line = f"submit --local --grid seed_everything=0,1 -- fit {OPTIONS} --trainer.max_epochs 1"
    first = cli(line)
    assert first.status == 0
    assert "2 of 2 runs finished" in first.out
    assert [summary(run)["seed"] for run in sorted(Path("runs").iterdir())] == [0, 1]
    assert "0 of 0 runs finished" in cli(line).out


SITES = sorted((Path(__file__).parents[2] / "slurm" / "sites").glob("*.env"))


@pytest.mark.parametrize("site", SITES, ids=[path.stem for path in SITES])
def test_every_site_gives_a_script(cli, monkeypatch, site):
    for name in site_variables(site):
        monkeypatch.setenv(name, "")  # set first, so that what the command sets is undone behind the test
        monkeypatch.delenv(name)
    done = cli(f"submit --site {site} --gpus 2 --dry_run -- fit -c cifar10")
    assert done.status == 0, done.err
    assert "#SBATCH --partition=" in done.out
    assert "#SBATCH --time=" in done.out
