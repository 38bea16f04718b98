"""The package changes nothing in the program that imports it, nor in one that trains with its own Trainer."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

import reslightning
from reslightning.data.workers import Loader, end_workers
from tests.guest import changed, state
from tests.small import Thumbnails
from tests.test_house import EVERY, imports

ROOT = Path(__file__).parents[1]


def test_importing_starts_nothing_and_changes_nothing_and_leaves_children_alone(tmp_path):
    ours = {"reslightning", "__future__"}
    found = {name for _, path in EVERY for name in imports(path, top_level=True) if name.partition(".")[0] not in ours}
    libraries = sorted(name for name in found if name in sys.modules or "." not in name)
    done = tmp_path / "done"
    program = subprocess.run(
        [sys.executable, "-m", "tests.guest", str(done), *libraries, "lightning.pytorch.cli", "submitit", "wandb"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert program.returncode == 0, program.stderr
    assert program.stdout == "{}\n", program.stdout
    assert done.read_text() == "done"  # the child ended its work behind the host's end
    assert not program.stderr


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_training_in_a_plain_trainer_leaves_the_program_as_it_was(tmp_path):
    model, data = reslightning.ImageClassifier("resnet8"), Thumbnails(batch_size=256, num_workers=1)
    data.setup()  # imports scikit-learn, which sets variables of its own
    multiprocessing.get_start_method()  # and is the default from the first look on
    before = state()
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(
        max_epochs=1, limit_train_batches=2, limit_val_batches=1, enable_checkpointing=False, devices=1, **options
    )
    trainer.fit(model, datamodule=data)
    after = state()
    for thread in {*after.pop("threads")} - {*before.pop("threads")}:  # those of other tests may end meanwhile
        thread.join(20)  # a loader's queue closes by itself
        assert not thread.is_alive()
    assert set(changed(before, after)) <= {"random"}  # which training draws
    assert data.worker_init is None  # workers end as their host does


def test_the_command_line_ends_its_own_workers_alone():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    data = Thumbnails(batch_size=256, num_workers=1)
    data.worker_init = _deaf
    batches = iter(data.loader("train", range(512), 256))
    next(batches)
    (worker,) = [process for process in Loader.workers if process.is_alive()]
    handler = signal.getsignal(signal.SIGCHLD)
    end_workers()
    assert worker.exitcode == -signal.SIGKILL
    assert signal.getsignal(signal.SIGCHLD) is handler
    assert child.is_alive()
    child.kill()
    child.join()  # torch's handler, which sees every child end, does not find the worker among the killed


def _deaf(worker: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def test_types_are_shipped():
    assert (files("reslightning") / "py.typed").is_file()
