"""What is counted is what torchmetrics and numpy count, whatever the batches and the processes."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

from reslightning.train.metrics import BINS, EvalMetrics, TrainMetrics, class_accuracies, former

CLASSES = 7


@pytest.fixture(scope="module")
def answers():
    """Logits, labels of very uneven classes, and losses of 2,001 samples."""
    random = np.random.default_rng(3)
    labels = torch.from_numpy(random.choice(CLASSES, 2001, p=[0.5, 0.3, 0.1, 0.05, 0.03, 0.01, 0.01]))
    logits = torch.from_numpy(random.normal(size=(2001, CLASSES)).astype(np.float32))
    logits[torch.arange(2001), labels] += 1.0
    return logits, labels, torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def evaluated(answers, batch: int) -> EvalMetrics:
    metrics = EvalMetrics(CLASSES)
    for part in zip(*(column.split(batch) for column in answers), strict=True):
        metrics.update(*part)
    return metrics


@pytest.mark.parametrize("batch", [2001, 64, 1])
def test_an_evaluation_is_torchmetrics_and_numpy_s(answers, batch):
    logits, labels, losses = answers
    found, confusion, _ = evaluated(answers, batch).compute()
    guesses = logits.numpy().argmax(1)
    truth = labels.numpy()
    by_hand = np.zeros((CLASSES, CLASSES), int)
    np.add.at(by_hand, (truth, guesses), 1)
    assert confusion.tolist() == by_hand.tolist() == MulticlassConfusionMatrix(CLASSES)(logits, labels).tolist()
    assert found["top1"] == (guesses == truth).mean()
    five = np.argsort(-logits.numpy(), 1, kind="stable")[:, :5]
    assert found["top5"] == (five == truth[:, None]).any(1).mean()
    assert found["balanced"] == math.fsum(by_hand[k, k] / by_hand[k].sum() for k in range(CLASSES)) / CLASSES
    assert found["n_samples"] == 2001
    for name, theirs in (
        ("top1", MulticlassAccuracy(CLASSES, average="micro")),
        ("top5", MulticlassAccuracy(CLASSES, average="micro", top_k=5)),
        ("balanced", MulticlassAccuracy(CLASSES, average="macro")),
        ("calibration", MulticlassCalibrationError(CLASSES, n_bins=BINS, norm="l1")),
    ):
        assert found[name] == pytest.approx(theirs(logits, labels).item(), rel=1e-5), name
    assert found["loss"] == pytest.approx(losses.double().mean().item(), rel=1e-13)
    rows = np.exp(logits.double().numpy())
    confidence = (rows / rows.sum(1, keepdims=True)).max(1)
    bins = (confidence * BINS).astype(int)
    gaps = [abs(((guesses == truth) - confidence)[bins == k].sum()) for k in range(BINS)]
    assert found["calibration"] == pytest.approx(sum(gaps) / 2001, rel=1e-12)


def test_classes_that_do_not_occur_do_not_count(answers):
    """Not as wrong, which torchmetrics' macro average says of those that were guessed."""
    logits, labels, losses = (column[answers[1] < 4] for column in answers)
    metrics = EvalMetrics(CLASSES)
    metrics.update(logits, labels, losses)
    found, confusion, _ = metrics.compute()
    accuracies = class_accuracies(confusion)
    assert accuracies[4:] == [None, None, None]
    assert confusion[:, 4:].sum() > 0  # guessed
    assert found["balanced"] == math.fsum(accuracies[:4]) / 4


def test_sums_stay_float64_whatever_the_network_is(answers):
    metrics = evaluated(answers, 64).to(torch.bfloat16).half()
    assert metrics.loss.dtype == torch.float64
    assert metrics.compute()[0] == evaluated(answers, 64).compute()[0]


def trained(answers, batch: int) -> TrainMetrics:
    metrics = TrainMetrics(CLASSES)
    for step, (logits, labels, losses) in enumerate(zip(*(part.split(batch) for part in answers), strict=True)):
        metrics.update(logits, labels, losses.mean(), step)
        metrics.stepped(torch.tensor(0.5 + step))
    return metrics


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (3, 3), (2, 1), (1, 3), (3, 2)])
def test_a_checkpoint_hands_every_process_its_sums_back(answers, before, after):
    """At another number of processes the first one takes all of them."""
    parts = [trained([column[rank::before] for column in answers], 32) for rank in range(before)]
    kept = parts[0].kept(lambda mine: torch.stack([torch.stack([getattr(p, n) for n in p.folds]) for p in parts]))
    resumed = [TrainMetrics(CLASSES) for _ in range(after)]
    for rank, metrics in enumerate(resumed):
        metrics.take(kept, rank, after)
    for name in parts[0].folds:
        fold = parts[0].folds[name]
        assert fold(torch.stack([getattr(m, name) for m in resumed])) == fold(kept[name]), name
        if before == after:
            assert [getattr(m, name) for m in resumed] == [getattr(m, name) for m in parts], name


def test_an_older_version_s_sums_go_on(answers):
    now = trained(answers, 32)
    numbers = [*(getattr(now, name).item() for name in ("loss", "hits")), 0.0, now.count.item()]
    sums = torch.tensor([[*numbers, math.inf, now.norm.item(), now.steps.item()]], dtype=torch.float64)
    resumed = TrainMetrics(CLASSES)
    resumed.take(former(sums), 0, 1)
    assert resumed.compute() == now.compute()
    first = TrainMetrics(CLASSES)  # of a version that knew no gradients' lengths
    first.take(former(sums[:, :5]), 0, 1)
    assert math.isnan(first.compute()["grad_norm"])
    assert first.compute()["loss"] == now.compute()["loss"]
