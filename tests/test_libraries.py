"""What the package takes of other libraries' private parts: a failure here says what a new version broke.

Everything else that breaks with a new version is their public interface, and their release notes'.
"""

import importlib.util
import inspect
import warnings

import lightning
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins import TorchSyncBatchNorm
from submitit.slurm import slurm as submitit_slurm

from reslightning.cli.lightning_cli import Parser
from reslightning.cli.parser import options
from reslightning.data.progress import (
    batches_per_epoch,
    finished_epochs,
    restart_validation,
    started_by_lightning,
    syncs_batchnorm,
    training_position,
)

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Model(BoringModel):
    """Notes where training stands at every step."""

    def __init__(self):
        super().__init__()
        self.positions = []

    def training_step(self, batch, batch_idx):
        self.positions.append(training_position(self.trainer))
        return super().training_step(batch, batch_idx)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training of two epochs of three steps, and its checkpoint."""
    model = Model()
    trainer = Trainer(
        max_epochs=2, limit_train_batches=3, limit_val_batches=1, **QUIET, enable_checkpointing=False, devices=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about loaders
        trainer.fit(model)
    path = tmp_path_factory.mktemp("trained") / "x.ckpt"
    trainer.save_checkpoint(path)
    return trainer, model, torch.load(path, weights_only=True)


def broken(what: str) -> str:
    return f"{what}: Lightning {lightning.__version__} has changed what data/progress.py reads, and alone reads"


def test_lightning_counts_epochs_and_batches_as_before(trained):
    trainer, model, checkpoint = trained
    assert [epoch for epoch, _ in model.positions] == [0, 0, 0, 1, 1, 1], broken("the epoch of a training step")
    assert [batch for _, batch in model.positions] == [1, 2, 3, 1, 2, 3], broken("the batches of an epoch")
    assert batches_per_epoch(trainer, 64) == 3, broken("limit_train_batches")
    assert finished_epochs(checkpoint) == 2, broken("the epochs that a checkpoint counts")


def test_a_checkpoint_holds_the_validations_progress_as_before(trained):
    *_, checkpoint = trained
    progress = checkpoint["loops"]["fit_loop"].get("epoch_loop.val_loop.batch_progress")
    assert progress, broken("the validation's progress in a checkpoint")
    assert set(progress["current"]) == {"ready", "started", "processed", "completed"}, broken("its counters")
    restart_validation(checkpoint)
    assert progress["total"]["ready"] == 1


def test_the_strategy_knows_its_batch_normalisation_and_who_started_it():
    trainer = Trainer(sync_batchnorm=True, strategy="ddp", devices=1, **QUIET)
    assert isinstance(getattr(trainer.strategy, "_layer_sync", None), TorchSyncBatchNorm), broken("_layer_sync")
    assert syncs_batchnorm(trainer)
    assert started_by_lightning(trainer), broken("the strategy's cluster_environment")


def test_jsonargparse_tells_its_options_and_their_types():
    parser = Parser(allow_abbrev=False)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_class_arguments(Model, "model")
    found = options(parser)
    assert found.get("rate", "nothing") is float, (
        "jsonargparse has changed _actions or an action's _typehint, which cli/parser.py reads, and alone reads: "
        f"the messages about mistakes know no options now ({found})"
    )


def test_submitit_writes_the_job_script():
    make = getattr(submitit_slurm, "_make_sbatch_string", None)
    assert make is not None, (
        "submitit has no _make_sbatch_string now, which commands/submission.py shows and queues scripts by"
    )
    taken = set(inspect.signature(make).parameters)
    needed = {"command", "folder", "map_count", "setup", "teardown", "srun_args", "stderr_to_stdout", "signal_delay_s"}
    assert needed <= taken, f"submitit's _make_sbatch_string does not take {needed - taken}: see commands/submission.py"
    assert importlib.util.find_spec("submitit.core._submit"), (
        "submitit.core._submit is gone, which a dry run's script starts in commands/submission.py"
    )
