"""What is counted in training and in evaluation: torchmetrics' metrics whose numbers are exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from reslightning.errors import UserError

TOP5_FROM = 6  # classes; of five, every guess is among the top five
BINS = 15  # of confidence, in a calibration error (arXiv:1706.04599, and torchmetrics' default)
FORMER = ("loss", "hits", "top5", "count", "first_bad", "norm", "steps")  # columns of an older version's train_sums


def accumulator(device: torch.device) -> torch.dtype:
    """Return the type that sums are kept as; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class Sums(Metric):
    """Sums over samples in float64, which depend neither on the batches' sizes nor on the number of processes.

    One metric for all that a step counts, where torchmetrics has one each: a collection of its own would be updated,
    and gathered from all processes, one by one.
    """

    full_state_update = False
    lowest: Tensor
    highest: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.folds: dict[str, Callable[[Tensor], Tensor]] = {}  # what processes' numbers make together
        self._keep("lowest", math.inf, "min")
        self._keep("highest", -math.inf, "max")
        self.set_dtype(torch.float64)

    def _keep(self, name: str, default: float, how: str = "sum") -> None:
        folds: dict[str, Any] = {"sum": torch.sum, "min": torch.min, "max": torch.max}
        self.folds[name] = folds[how]
        self.add_state(name, torch.tensor(default, dtype=torch.float64), dist_reduce_fx=how)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> Any:
        """Move the sums, and keep them as they are: with precision bf16-true they would become bfloat16."""
        device = fn(torch.zeros(1, device=self.device)).device

        def move(value: Tensor) -> Tensor:
            return value.to(device, accumulator(device) if value.is_floating_point() else value.dtype)

        return super()._apply(move, exclude_state)

    def _look(self, labels: Tensor) -> None:
        lowest, highest = labels.aminmax()
        torch.minimum(self.lowest, lowest, out=self.lowest)
        torch.maximum(self.highest, highest, out=self.highest)

    def check_labels(self) -> None:
        """Raise UserError where labels that were counted are no classes; waits for the device."""
        check_labels(self.lowest.item(), self.highest.item(), self.num_classes)


class TrainMetrics(Sums):
    """Mean loss and top-1 accuracy of a training epoch, and what else its steps leave to be known.

    Every state is one number, which is kept in checkpoints of every process.
    """

    loss: Tensor
    hits: Tensor
    count: Tensor
    norm: Tensor
    steps: Tensor
    first_bad: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        for name in ("loss", "hits", "count", "norm", "steps"):
            self._keep(name, 0.0)
        self._keep("first_bad", math.inf, "min")  # the first step whose loss is not finite

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor, step: int) -> None:
        """Add a batch, without waiting for its device.

        Args:
            logits: [B, num_classes].
            labels: [B], int64.
            loss: the mean over the batch.
            step: the optimizer step that it belongs to.
        """
        self.loss.add_(loss, alpha=len(labels))
        self.hits += (logits.argmax(1) == labels).sum()
        self.count += len(labels)
        bad = torch.where(torch.isfinite(loss), torch.inf, float(step))
        torch.minimum(self.first_bad, bad, out=self.first_bad)
        self._look(labels)

    def stepped(self, norm: Tensor) -> None:
        """Add an optimizer step with the length of its gradient."""
        self.norm += norm
        self.steps += 1

    def compute(self) -> dict[str, float]:
        """Return loss, top1 as a fraction, grad_norm and n_samples, over all processes."""
        self.check_labels()
        loss, hits, count, norm, steps = (
            getattr(self, name).item() for name in ("loss", "hits", "count", "norm", "steps")
        )
        return {
            "loss": loss / count,
            "top1": hits / count,
            "n_samples": round(count),
            "grad_norm": norm / steps if steps else math.nan,
        }

    def kept(self, gather: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return every process's numbers by name [processes], float64, given what gathers a tensor from all."""
        gathered = gather(torch.stack([getattr(self, name) for name in self.folds])).reshape(-1, len(self.folds)).cpu()
        return dict(zip(self.folds, gathered.unbind(1), strict=True))

    def take(self, kept: Mapping[str, Tensor], rank: int, world_size: int) -> None:
        """Go on from what ``kept`` returned; at another number of processes the first one takes it all."""
        for name, there in kept.items():
            if len(there) == world_size:
                value = there[rank]
            elif rank == 0:
                value = self.folds[name](there)
            else:
                continue
            setattr(self, name, value.to(getattr(self, name)))
        self._update_count = 1  # so that an epoch that only ends here is none without samples


def former(sums: Tensor) -> dict[str, Tensor]:
    """Return as ``TrainMetrics.kept`` does what an older version kept, [processes, 5 or 7] numbers."""
    return {name: column for name, column in zip(FORMER, sums.unbind(1), strict=False) if name != "top5"}


class Counted(NamedTuple):
    """What an evaluation counted, over all processes.

    Attributes:
        metrics: by name.
        confusion: [num_classes, num_classes], int64, on the CPU; rows are the labels.
        bins: [BINS, 3], float64, on the CPU: of the samples whose guess is about so sure their number, how many are
            right, and the sum of confidence.
    """

    metrics: dict[str, float]
    confusion: Tensor
    bins: Tensor


class EvalMetrics(Sums):
    """What an evaluation counts: loss, hits, the confusion matrix, and how sure right and wrong guesses are.

    Torchmetrics' own differ in what is not exact: its confusion matrix takes [B, num_classes ** 2] bytes with
    deterministic algorithms, and waits for a GPU without; its macro average counts a class without samples as wholly
    wrong once it is guessed; its calibration error keeps the confidence of every sample, and bins it in float32.
    """

    loss: Tensor
    top5: Tensor
    bins: Tensor
    confusion: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._keep("loss", 0.0)
        self._keep("top5", 0.0)
        self.add_state("bins", torch.zeros(BINS, 3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, losses: Tensor) -> None:
        """Add a batch, without waiting for its device.

        Args:
            logits: [B, num_classes].
            labels: [B], int64.
            losses: [B].
        """
        self._look(labels)
        labels = labels.clamp(0, self.num_classes - 1)  # those outside are found by ``check_labels``
        guesses = logits.argmax(1)
        kind = self.loss.dtype
        self.loss += losses.to(kind).sum()
        if self.num_classes >= TOP5_FROM:
            self.top5 += (logits.topk(5, dim=1).indices == labels[:, None]).sum()
        count_guesses(self.confusion, labels, guesses)
        confidence = logits.to(kind).softmax(1).gather(1, guesses[:, None])[:, 0]
        right = (guesses == labels).to(kind)
        rows = torch.stack([torch.ones_like(right), right, confidence], 1)
        self.bins.index_add_(0, (confidence * BINS).long().clamp(0, BINS - 1), rows)

    def compute(self) -> Counted:
        """Return loss, top1, top5 (from six classes on), balanced, calibration and n_samples over all processes.

        Accuracies are fractions in [0, 1]; ``balanced`` is the mean over the classes that occur of each one's
        accuracy (macro recall); ``calibration`` is the mean distance between confidence and accuracy in 15 bins of
        confidence, weighted by their samples, in [0, 1].
        """
        self.check_labels()
        count = int(self.confusion.sum())
        found = {"loss": self.loss.item() / count, "top1": int(self.confusion.trace()) / count}
        if self.num_classes >= TOP5_FROM:
            found["top5"] = self.top5.item() / count
        accuracies = [accuracy for accuracy in class_accuracies(self.confusion) if accuracy is not None]
        found["balanced"] = math.fsum(accuracies) / len(accuracies)
        _, right, confidence = self.bins.unbind(1)
        found["calibration"] = (right - confidence).abs().sum().item() / count
        return Counted(found | {"n_samples": count}, self.confusion.cpu(), self.bins.cpu())


def count_guesses(confusion: Tensor, labels: Tensor, guesses: Tensor) -> None:
    """Add labels [N] and guesses [N] to a confusion matrix [classes, classes], int64, whose rows are the labels."""
    ones = torch.ones_like(labels)
    confusion.view(-1).scatter_add_(0, labels * len(confusion) + guesses, ones)


def class_accuracies(confusion: Tensor) -> list[float | None]:
    """Return each class's accuracy, a fraction, of a confusion matrix [classes, classes]; None without samples."""
    hits, counts = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    return [hit / count if count else None for hit, count in zip(hits, counts, strict=True)]


def confused(confusion: Tensor, most: int = 20) -> list[tuple[int, int, int]]:
    """Return the classes that are most often taken for others: label, guess and how many images, most first."""
    mistaken = confusion.clone().fill_diagonal_(0).flatten()
    order = mistaken.argsort(descending=True, stable=True)[:most]
    classes = len(confusion)
    return [(place // classes, place % classes, int(mistaken[place])) for place in order.tolist() if mistaken[place]]


def calibration(bins: Tensor) -> list[dict[str, float]]:
    """Return for each of an evaluation's bins that has samples their number, mean confidence and accuracy."""
    return [
        {"images": count, "confidence": confidence / count, "top1": right / count}
        for count, right, confidence in bins.tolist()
        if count
    ]


def check_labels(lowest: float, highest: float, num_classes: int) -> None:
    """Raise UserError where labels from ``lowest`` to ``highest`` are not all classes."""
    if lowest < 0 or highest >= num_classes:
        raise UserError(
            f"there are labels from {lowest:.0f} to {highest:.0f}; allowed: 0 to {num_classes - 1}, as "
            f"ImageClassifier has num_classes={num_classes}\nGive as many classes as the data has, or mend the labels."
        )
