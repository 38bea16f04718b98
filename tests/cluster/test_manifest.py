"""A line of a manifest is what runs, or nothing; what a job script refuses before it starts a task."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from reslightning import slurm
from tests.cluster.conftest import program

ROOT = Path(__file__).parents[2]


@pytest.fixture
def asked(job, tmp_path, monkeypatch):
    """Launch a manifest's line as a task of an array: ``asked(text, task)`` is what fit was given, None if nothing."""

    def launch(text: str | bytes, task: int = 1) -> list[str] | None:
        job(SLURM_STEP_ID="", SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID=str(task))
        monkeypatch.setenv("RESLIGHTNING_ALIVE", "")
        program(tmp_path, monkeypatch, "srun", f"printf '%s\\0' \"$@\" > {tmp_path}/asked")
        (tmp_path / "asked").unlink(missing_ok=True)
        (tmp_path / "runs.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        status = slurm.main(["launch", "--manifest", "runs.txt"])
        if not (tmp_path / "asked").exists():
            assert status == 2
            return None
        assert status == 0
        words = (tmp_path / "asked").read_text().split("\0")[:-1]
        return words[words.index("--trainer.devices=1") + 1 :]

    return launch


@pytest.mark.parametrize(
    "line",
    [
        r'--wandb.notes "5\" tall, \\ and \$5" --seed_everything 1',
        r"--wandb.notes=it\'s --seed_everything=1",
        """--wandb.notes='a "b"'"'"'c' --run_dir a\\ b""",
        "--data.stage_to '$TMPDIR' --wandb.tags [a,b] --wandb.group ''",
        "--wandb.notes run#3 --seed_everything 1 # it's a note",
        "--wandb.notes '#3' --seed_everything\t1",
        '--wandb.notes "Zürich 東京" --seed_everything 1',
    ],
)
def test_a_line_is_what_a_shell_would_make_of_it(asked, line):
    there = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    assert asked(f"{line}\n") == there.stdout.split("\0")[:-1]


@pytest.mark.parametrize(
    "line",
    [
        "--wandb.notes=it's --seed_everything 1",
        '--wandb.notes="two lines --seed_everything 1',
        "--wandb.notes 'a' b' --seed_everything 1",
        "--seed_everything 1 \\",
        "--run_dir $HOME/run --seed_everything 1",
        '--run_dir "`pwd`" --seed_everything 1',
        "--seed_everything 1 > log.txt",
        "--seed_everything 1; --model.arch resnet8",
    ],
)
def test_a_slip_is_refused(asked, capfd, line):
    assert asked(f"-c digits\n\n{line}\n-c digits\n", task=2) is None
    assert "line 3 of runs.txt cannot be run as it stands" in capfd.readouterr().err
    assert asked(f"-c digits\n\n{line}\n--seed_everything 7\n", task=3) == ["--seed_everything", "7"]


def test_lines_are_counted_as_documented(asked, capfd):
    text = "\ufeff# it's a comment\r\n\r\n--seed_everything 1\r\n   \r\n  # --seed_everything 2\r\n--seed_everything 3"
    assert asked(text) == ["--seed_everything", "1"]
    assert asked(text, 2) == ["--seed_everything", "3"]
    for task in (0, 3):
        assert asked(text, task) is None
        assert f"task {task} is out of range: runs.txt has 2 lines; use --array=1-2" in capfd.readouterr().err
    assert asked("--seed_everything 1\n".encode("utf-16")) is None
    assert "cannot read the manifest" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--model.arhc resnet8", "unknown option 'model.arhc'; did you mean 'model.arch'"),
        ("-c digts", "no config 'digts'; did you mean 'digits'?"),
        ("-c own.yaml", "unknown option 'trainer.max_epoch' in own.yaml"),
        ("--seed 3", "unknown option 'seed'"),
    ],
)
def test_a_typo_is_said_before_tasks_start(asked, capfd, line, said):
    Path("own.yaml").write_text("trainer: {max_epoch: 3}\n")
    assert asked(line) is None
    assert capfd.readouterr().err.count(said) == 1
    assert slurm.main(["launch", *shlex.split(line)]) == 2  # as behind train.sh
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("lacks", ["reslightning", "yaml", "torch"])
def test_a_python_without_what_it_needs_gets_a_remedy(tmp_path, monkeypatch, lacks):
    real = shlex.quote(sys.executable)
    block = (
        "import sys, importlib.metadata as m; r = m.version\n"
        f"sys.modules[{lacks!r}] = None\n"
        f"def version(name):\n    if name == {lacks!r}: raise m.PackageNotFoundError(name)\n    return r(name)\n"
        "m.version = version\n"
    )
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(block)
    program(tmp_path, monkeypatch, "python", f'exec {real} "$@"')
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/block:{ROOT}")
    for name in ("RESLIGHTNING_MODULES", "RESLIGHTNING_VENV", "RESLIGHTNING_CONDA"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(["bash", str(ROOT / "slurm" / "train.sh")], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{tmp_path}/bin/python cannot run reslightning" in done.stderr
    assert lacks in done.stderr
    assert "set RESLIGHTNING_VENV or RESLIGHTNING_CONDA" in done.stderr
