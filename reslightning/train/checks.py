"""What cannot be trained, refused before anything is written."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from reslightning.data.base import DataModule, prepare
from reslightning.data.progress import batches_per_epoch, syncs_batchnorm
from reslightning.errors import UserError
from reslightning.models.architectures import Architecture, get_architecture
from reslightning.models.normalization import normalisations
from reslightning.train.classifier import ImageClassifier
from reslightning.train.hardware import check_compiler


def check(model: ImageClassifier, data: DataModule, trainer: Trainer) -> None:
    """Refuse what cannot be trained, before anything is written."""
    if model.hparams["compile"]:
        check_compiler(trainer.strategy.root_device.type)
    _check_places(model, data, trainer)
    data.micro_batch_size(trainer.world_size, trainer.accumulate_grad_batches)
    prepare(data)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        if not data.n_samples("train"):
            raise UserError(
                f"{type(data).__name__} has no training images at {data.root.absolute()}: nothing to train on"
            )
        data.check_training()
        if not batches_per_epoch(trainer, data.steps_per_epoch * trainer.accumulate_grad_batches):
            option = _limit(trainer, "limit_train_batches")
            raise UserError(
                f"trainer.{option}={trainer.limit_train_batches} of {data.steps_per_epoch} steps leaves none to train; "
                "1 is one batch, 1.0 all of them"
            )
        data.check_evaluation("val", trainer.world_size)
        _check_validation(data, trainer)


def _check_places(model: ImageClassifier, data: DataModule, trainer: Trainer) -> None:
    """Refuse images so few and small that batch normalisation would have one value to normalise by itself."""
    network = get_architecture(model.arch)
    norms = list(normalisations(model.model).values())
    if not isinstance(network, Architecture) or not norms or not norms[-1].training:
        return
    images = data.micro_batch_size(trainer.world_size, trainer.accumulate_grad_batches)
    images *= trainer.world_size if syncs_batchnorm(trainer) else 1
    size = min(data.training_sizes)
    if images == 1 and size <= network.stride:
        raise UserError(
            f"batch normalisation would have a single value to normalise: it sees 1 image at a time, of {size} pixels, "
            f"and the last map of {model.arch} has a place for every {network.stride}\nGive a larger data.batch_size, "
            f"or images of more than {network.stride} pixels."
        )


def _limit(trainer: Trainer, name: str) -> str:
    """Return which option limits the batches: Lightning sets the others from overfit_batches."""
    return "overfit_batches" if getattr(trainer, "overfit_batches", 0) else name


def _check_validation(data: DataModule, trainer: Trainer) -> None:
    option = _limit(trainer, "limit_val_batches")
    limit: float = getattr(trainer, option)
    images = data.n_samples("val") // trainer.world_size
    batches = -(-images // data.evaluation_batch_size(trainer.world_size, trainer.accumulate_grad_batches))
    if isinstance(limit, float) and batches * limit < 1:
        raise UserError(
            f"trainer.{option}={limit} of {batches} batches leaves none to validate on; 1 is one batch, 1.0 all of them"
        )
