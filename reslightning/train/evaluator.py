"""Evaluates, with exact metrics, and knows whose data and callbacks a Trainer has; no training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from reslightning.data import augmentations
from reslightning.data.base import DataModule
from reslightning.data.progress import evaluates_everything
from reslightning.data.views import Views
from reslightning.errors import TrainingError, UserError
from reslightning.train.batches import check_images, unpack
from reslightning.train.metrics import EvalMetrics, accumulator

# By which uint8 images are normalised where neither the data module nor a checkpoint says: ImageNet's.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def counted(logits: Tensor) -> Tensor:
    """Return logits as an evaluation counts them: float32, or float64 where the network computes in that."""
    return logits if logits.dtype == torch.float64 else logits.float()


def probabilities(logits: Tensor) -> Tensor:
    """Return the softmax of logits [B, num_classes], in float64 where the device has that."""
    return logits.to(accumulator(logits.device)).softmax(1)


class _Ends(Callback):
    """Ends the module's epochs before other callbacks look, which Lightning asks before the module."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.on_train_epoch_end()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.on_validation_epoch_end()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.on_test_epoch_end()


class Evaluator(LightningModule):
    """A network that any Trainer evaluates; see ``ImageClassifier``.

    Args:
        num_classes: outputs of its ``model``, which a subclass makes, with the hyperparameters test_flip and
            channels_last.
    """

    model: nn.Module
    confusion: Tensor  # the last evaluation's, as ``bins``: see ``Counted``
    bins: Tensor
    # The last validation's samples [N, 5] on the first process: index, label, guess, its probability, loss.
    samples: Tensor | None = None
    # A protocol's, where one is asked for: what it makes of images or their views.
    scores: Callable[[Evaluator, Tensor | Views], Tensor] | None = None
    recorded = False  # whether a Recorder writes down what is reported, a row an epoch
    _said = False  # what is lost with other data than reslightning.data's
    _bytes = False  # whether uint8 images came

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        # The epoch's metrics by name, in full precision, for whoever writes them down.
        self.metrics: dict[str, float] = {}
        self.mean, self.std = torch.tensor(MEAN), torch.tensor(STD)
        self._samples: list[Tensor] = []
        self._open: set[str] = set()  # epochs that are to be ended, which ``_Ends`` may have done

    def setup(self, stage: str) -> None:
        """Look at whose data and callbacks they are."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, _Ends) for callback in callbacks):
            callbacks.insert(0, _Ends())
        if self._normalises():
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self.mean, self.std = torch.as_tensor(data.mean), torch.as_tensor(data.std)
        if self._data is None and not self._said:
            self._said = True
            rank_zero_info(
                "ImageClassifier: the data is no module of reslightning.data, so that a training which goes on within "
                "an epoch sees some samples again and others not, and with several processes an evaluation may count "
                "some samples twice"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W], normalised floats or uint8, to logits [B, num_classes]."""
        return self.model(self._ready(images))

    def dense(self, images: Tensor) -> Tensor:
        """Map images as ``forward`` does, by the network as a fully convolutional one; see ``ResNet.dense``."""
        return self.model.dense(self._ready(images))  # type: ignore[operator]

    def _ready(self, images: Tensor) -> Tensor:
        """Return images as the network takes them."""
        check_images(images)
        if images.dtype == torch.uint8:
            self._bytes = True
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
            images = augmentations.normalize(images, self.mean, self.std)
        images = images.to(self.dtype)
        return images.contiguous(memory_format=torch.channels_last) if self.hparams["channels_last"] else images

    def on_validation_epoch_start(self) -> None:
        """Start the sums anew."""
        self._start_evaluation("val")

    def on_test_epoch_start(self) -> None:
        """Start the sums anew."""
        self._start_evaluation("test")

    def _start_evaluation(self, split: str) -> None:
        self._open.add(split)
        self._eval_metrics = EvalMetrics(self.num_classes).to(self.device)  # here: of many classes it is large
        self._samples = []

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the sums, and return, for callbacks, what was counted: see ``test_step``."""
        return self._evaluate(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the sums, and return, for callbacks, what was counted.

        Logits [B, num_classes], labels [B], and indices [B] where the loader gives them.
        """
        return self._evaluate(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Turn the sums over all processes into metrics."""
        self._finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Turn the sums over all processes into metrics."""
        self._finish_evaluation("test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Return probabilities [B, num_classes], with labels [B] and indices [B] where the loader gives them."""
        if isinstance(batch, Tensor):
            return {"probability": probabilities(self.evaluated(batch))}
        images, labels, indices = unpack(batch, self.num_classes)
        found = {} if indices is None else {"index": indices}
        return found | {"label": labels, "probability": probabilities(self.evaluated(images))}

    def _evaluate(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        self._require_trainer()
        images, labels, indices = unpack(batch, self.num_classes)
        logits = self.evaluated(images)
        losses = F.cross_entropy(logits, labels.clamp(0, self.num_classes - 1), reduction="none")
        self._eval_metrics.update(logits, labels, losses)
        if self.device.type == "cpu" or batch_idx == 0:
            self._eval_metrics.check_labels()
        if self._keeps_samples and indices is not None:
            guesses = logits.argmax(1)
            confidence = logits.softmax(1).gather(1, guesses[:, None])[:, 0]
            self._samples.append(torch.stack([indices, labels, guesses, confidence, losses], 1))
        return {"logits": logits, "label": labels} | ({} if indices is None else {"index": indices})

    @property
    def _keeps_samples(self) -> bool:
        """Whether this is a training's validation, which may turn out to be the last, on images to be found again."""
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        return fitting and self._data is not None and evaluates_everything(self.trainer)

    def gather_samples(self) -> None:
        """Bring the last validation's samples of all processes, which may have one more or less, to the first one."""
        if not self._keeps_samples:
            return
        mine = torch.cat([torch.empty(0, 5, device=self.device), *self._samples]).double().cpu()
        parts = [mine]
        if self.trainer.world_size > 1:
            parts = [mine] * self.trainer.world_size
            dist.all_gather_object(parts, mine)
        everything = torch.cat(parts)
        self.samples, self._samples = everything[everything[:, 0].argsort()], []

    def evaluated(self, images: Tensor | Views) -> Tensor:
        """Map normalised images [B, 3, H, W], or a protocol's views, to the logits [B, num_classes] that count."""
        if self.scores is not None:
            return self.scores(self, images)
        assert isinstance(images, Tensor)
        logits = counted(self(images))
        return (logits + counted(self(images.flip(-1)))) / 2 if self.hparams["test_flip"] else logits

    def protocol(self, data: DataModule) -> str:
        """Return how images are evaluated, in a word: the data's part of it, and flip."""
        return data.protocol + ("-flip" if self.hparams["test_flip"] else "")

    def _finish_evaluation(self, split: Literal["val", "test"]) -> None:
        if split not in self._open:
            return
        self._open.remove(split)
        found, self.confusion, self.bins = self._eval_metrics.compute()
        if self.trainer.sanity_checking:
            return
        count, data = found["n_samples"], self._data
        if data is not None and evaluates_everything(self.trainer) and count != (expected := data.n_samples(split)):
            raise TrainingError(f"the {split} part has {expected} samples, but {count} were evaluated")
        self._report({f"{split}/{name}": value for name, value in found.items()})

    def _report(self, metrics: dict[str, float]) -> None:
        self.metrics.update(metrics)
        # Of a Python float Lightning makes a float32, and it would divide a mean; of one value the largest is itself.
        kind = accumulator(self.device)
        values = {name: torch.tensor(value, dtype=kind, device=self.device) for name, value in metrics.items()}
        logged = False if self.recorded else None  # None: every logger there is, and what validate and test return
        # Every process has the sum over all. With sync_dist whoever looks first would wait for the others to look, and
        # a process that draws a bar looks more often.
        self.log_dict(values, logger=logged, reduce_fx="max")

    @property
    def attached(self) -> bool:
        """Whether a Trainer runs this module, which ``load_from_checkpoint`` does without."""
        try:
            return self.trainer is not None
        except RuntimeError:
            return False

    def _require_trainer(self) -> Trainer:
        if not self.attached:
            raise UserError(
                "this ImageClassifier is in no Trainer, which knows the epoch and its steps\nUse trainer.fit(model, "
                "loader), or trainer.validate, test or predict; for logits alone call model(images)."
            )
        return self.trainer

    @property
    def _data(self) -> DataModule | None:
        """The data module, where it is one of reslightning.data."""
        data = getattr(self.trainer, "datamodule", None)
        return data if isinstance(data, DataModule) else None

    def _normalises(self) -> bool:
        """Whether the data module, anybody's, says by what its images are normalised."""
        data = getattr(self.trainer, "datamodule", None)
        return all(getattr(data, name, None) is not None for name in ("mean", "std"))
