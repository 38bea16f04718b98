"""Where training stands: the only module that touches the Trainer's private attributes."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher


def training_position(trainer: Trainer) -> tuple[int, int]:
    """Return the epoch (from 0) and the micro-batches of it that are trained already.

    Read it in ``train_dataloader()``, where a checkpoint's progress is restored already.
    """
    loop = trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    within = epoch.ready > epoch.processed
    return epoch.processed, loop.epoch_loop.batch_progress.current.ready if within else 0


def restart_validation(checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint written during validation resume at that validation's first batch.

    Lightning by itself would resume behind it and never report the epoch's metrics.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update(ready=0, started=0, processed=0, completed=0)
    progress["total"].update(ready=1, started=1)
    progress["is_last_batch"] = False


def finished_epochs(checkpoint: dict[str, Any]) -> int:
    """Return the number of whole epochs behind a checkpoint."""
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def stops_early(trainer: Trainer) -> bool:
    """Whether a callback's wish to end training counts, as it does behind ``trainer.min_epochs``."""
    return trainer.should_stop and trainer.fit_loop._can_stop_early


def ends(trainer: Trainer) -> bool:
    """Whether training ends with the current epoch, behind which this is asked."""
    return trainer.current_epoch + 1 == trainer.max_epochs or stops_early(trainer)


def validate_now(trainer: Trainer) -> None:
    """Validate behind an epoch, as Lightning by itself does within its last batch only."""
    loop, connector = trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector
    results = connector._first_loop_iter
    trainer.validating = True
    loop.run()
    trainer.training = True
    connector._first_loop_iter = results


def batches_per_epoch(trainer: Trainer, batches: int) -> int:
    """Return how many of an epoch's micro-batches are trained, given the Trainer's limits.

    ``Trainer.estimated_stepping_batches`` would build the loader before progress is restored, and
    a resumed run would then train other samples.
    """
    limit: float = getattr(trainer, "overfit_batches", 0) or trainer.limit_train_batches
    return min(limit, batches) if isinstance(limit, int) else int(batches * limit)


def evaluates_everything(trainer: Trainer) -> bool:
    """Whether an evaluation is meant to see its whole split."""
    limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
    limited = limit != 1.0 or isinstance(limit, int) or bool(getattr(trainer, "overfit_batches", 0))
    return not limited and not trainer.sanity_checking


def syncs_batchnorm(trainer: Trainer) -> bool:
    """Whether batch normalisation's statistics are shared by all devices."""
    return isinstance(getattr(trainer.strategy, "_layer_sync", None), TorchSyncBatchNorm)


def started_by_lightning(trainer: Trainer) -> bool:
    """Whether Lightning itself started the processes, on one machine, and not srun."""
    return isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment)


def forks(trainer: Trainer) -> bool:
    """Whether Lightning would fork or spawn its processes, whose results never come back to this one."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def ddp_options(trainer: Trainer) -> dict[str, Any]:
    """Return what DistributedDataParallel will be made with, to be changed before it is; {} for other strategies."""
    return trainer.strategy._ddp_kwargs if isinstance(trainer.strategy, DDPStrategy) else {}


def lost_process(error: BaseException) -> bool:
    """Whether an error comes from another process's end, and not from this one's work."""
    known = (dist.DistBackendError, dist.DistNetworkError)  # NCCL's, and the store's
    return isinstance(error, known) or "gloo/transport" in str(error)
