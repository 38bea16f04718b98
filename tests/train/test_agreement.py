"""Processes agree to stop or to save a step after one of them wished it, and no one waits for the others meanwhile."""

import json
import multiprocessing
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from reslightning.errors import Stopped
from reslightning.train.preemption import Preemption

MODULE = None  # which Preemption does not look at
LATE = 0.8  # seconds


class Process:
    """A process of two: what its Preemption does when a Trainer's hooks call it."""

    def __init__(self, rank: int, interval: float) -> None:
        self.done: list[str] = []
        self.trainer = SimpleNamespace(
            world_size=2,
            is_global_zero=rank == 0,
            callbacks=[],
            accumulate_grad_batches=1,
            is_last_batch=False,
            should_stop=False,
            sanity_checking=False,
            current_epoch=0,
            max_epochs=2,
            fit_loop=SimpleNamespace(restarted_mid_epoch=False),
            val_dataloaders=SimpleNamespace(dataset=range(40), batch_size=4),
        )
        self.preemption = Preemption(lambda trainer: self.done.append(f"saved in step {self.step}"), interval)
        self.preemption.on_train_start(self.trainer, MODULE)
        self.step = 0

    def train(self) -> None:
        self.step += 1
        self.preemption.on_train_batch_end(self.trainer, MODULE, None, None, self.step - 1)


def drive(rank, script, folder, interval):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    process = Process(rank, interval)
    try:
        script(process, rank)
    except Stopped as stopped:
        process.done.append(f"stopped by {stopped.signal.name} in step {process.step}")
    Path(folder, f"{rank}").write_text(json.dumps(process.done))
    dist.destroy_process_group()


def both(script, folder, interval=600.0):
    """Return what each of two processes does by a script."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["reslightning.cli.lightning_cli"])
    processes = [server.Process(target=drive, args=(rank, script, str(folder), interval)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [json.loads((folder / str(rank)).read_text()) for rank in range(2)]


def signalled_in_training(process, rank):
    for step in range(1, 9):
        process.preemption._signal = signal.SIGTERM if (step, rank) == (3, 1) else process.preemption._signal
        process.train()


def signalled_before_a_validation(process, rank):
    process.train()
    process.preemption._signal = signal.SIGUSR2 * rank
    process.trainer.is_last_batch = True
    process.train()  # behind an epoch's last step comes validation
    process.preemption.on_validation_start(process.trainer, MODULE)


def signalled_in_a_validation(process, rank):
    process.train()
    process.preemption.on_validation_start(process.trainer, MODULE)
    for process.step in range(4):
        process.preemption._signal = signal.SIGINT * (rank and process.step > 0)
        process.preemption.on_validation_batch_end(process.trainer, MODULE, None, None, process.step)


def signalled_by_two(process, rank):
    process.preemption._signal = (signal.SIGTERM, signal.SIGUSR1)[rank]
    process.train(), process.train()


def signalled_in_an_epoch_s_last_batch(process, rank):
    process.train(), process.train()
    process.preemption._signal = signal.SIGTERM * (1 - rank)
    process.preemption.on_train_epoch_end(process.trainer, MODULE)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (signalled_in_training, "stopped by SIGTERM in step 4"),
        (signalled_before_a_validation, "stopped by SIGUSR2 in step 2"),
        (signalled_in_a_validation, "stopped by SIGINT in step 2"),
        (signalled_by_two, "stopped by SIGUSR1 in step 2"),
        (signalled_in_an_epoch_s_last_batch, "stopped by SIGTERM in step 2"),
    ],
)
def test_both_stop_where_one_was_signalled(tmp_path, script, expected):
    for done in both(script, tmp_path):
        assert done[-1] == expected
        assert len(done) == 2 - (script is signalled_in_an_epoch_s_last_batch)  # the epoch's end has saved


def late(process, rank):
    for step in (1, 2):
        time.sleep(LATE * rank * (step == 1))
        began = time.monotonic()
        process.train()
        process.done.append(f"step {step} waited {time.monotonic() - began > LATE / 2}")
    process.preemption.on_train_end(process.trainer, MODULE)
    process.done.append(f"open {process.preemption._question}")


def test_one_does_not_wait_for_a_late_one_in_the_same_step(tmp_path):
    first, second = both(late, tmp_path)
    assert first == ["step 1 waited False", "step 2 waited True", "open None"]
    assert second == ["step 1 waited False", "step 2 waited False", "open None"]


def five_steps(process, rank):
    for _ in range(5):
        process.train()


def test_both_save_when_the_first_finds_that_it_is_time(tmp_path):
    for done in both(five_steps, tmp_path, interval=0.0):
        assert done == [f"saved in step {step}" for step in (2, 3, 4, 5)]
