"""Rates, measured in turn in one run: how fast image files are read, by stage, beside torchvision's way."""

from __future__ import annotations

import io
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from reslightning.data import augmentations, decode
from reslightning.data.base import PART
from reslightning.data.imagenet import ImageFolder
from reslightning.data.sampler import TrainSampler
from reslightning.data.sources import Source
from reslightning.errors import UserError

BATCH = 32


def in_turn(rounds: int, *ways: Callable[[], float]) -> list[list[float]]:
    """Return each way's rates, measured A B C A B C, so that a drifting machine drifts for all."""
    rates: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, measured in zip(ways, rates, strict=True):
            measured.append(way())
    return rates


def ratio(first: list[float], second: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def rate(batches: Iterator[Any], seconds: float) -> float:
    """Return images per second of (images, labels) batches."""
    for _ in range(3):
        next(batches)
    images, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        images += len(next(batches)[1])
    return images / elapsed


def print_rates(rates: dict[str, list[float]]) -> None:
    """Print medians with their spread."""
    for name, measured in rates.items():
        spread = f"{min(measured):,.0f} to {max(measured):,.0f}"
        print(f"  {statistics.median(measured):>10,.0f} images/s  {name} ({spread})")


def bench_files(data: ImageFolder, reference: ImageFolder, rounds: int, seconds: float, gpu_rate: float) -> None:
    """Print images per second of one core from files to normalised batches, by stage, and cores for a rate."""
    torch.set_num_threads(1)
    size, count = data.train_size, data.n_samples("train")
    if min(count, reference.n_samples("train")) < BATCH:
        raise UserError(f"{data.root} has {count} training images; at least {BATCH} are needed to measure")
    print(f"{data.root}: {count:,} training images to normalised float batches, one core, {rounds} rounds in turn")
    ours, plain = in_turn(
        rounds,
        lambda: rate(_batches(data), seconds),
        lambda: rate(_forever(_plain_loader(reference, size)), seconds),
    )
    print_rates({"reslightning": ours, f"torchvision, PIL and DataLoader on {reference.root}": plain})
    print(f"ratio {ratio(ours, plain):.2f}")
    print("  stage       ms an image   images/s")
    for stage, spent in _stages(data, seconds).items():
        print(f"  {stage:10} {1e3 * spent:12.3f} {1 / spent:10,.0f}")
    one = statistics.median(ours)
    print(f"a GPU that takes {gpu_rate:,.0f} images/s needs {gpu_rate / one:.1f} such cores (--gpu_rate)")


def _sampler(data: ImageFolder) -> TrainSampler:
    return TrainSampler(data.n_samples("train"), BATCH, seed=0, rank=0, world_size=1)


def _batches(data: ImageFolder) -> Iterator[Any]:
    sampler, epoch = _sampler(data), 0
    while True:
        sampler.set_epoch(epoch)
        for content in data.loader("train", sampler, BATCH):
            data.indices(content)  # or the message about a corrupt image
            yield data.training_batch(content, epoch)
        epoch += 1


def _stages(data: ImageFolder, seconds: float) -> dict[str, float]:
    """Return seconds an image of every stage, one behind the other on the same images."""
    spent: dict[str, float] = defaultdict(float)
    sampler, size, images, started = _sampler(data), data.train_size, 0, time.perf_counter()

    def lap(stage: str, since: float) -> float:
        spent[stage] += (now := time.perf_counter()) - since
        return now

    while time.perf_counter() - started < seconds:
        indices = list(itertools.islice(sampler, BATCH))
        drawn = augmentations.draws(0, images, torch.tensor(indices), decode.CROP_DRAWS, first=PART).tolist()
        since = time.perf_counter()
        files = [data.images.read("train", index) for index in indices]
        since = lap("read", since)
        parts = [decode.decode_part(*pair, size) for pair in zip(files, drawn, strict=True)]
        since = lap("decode", since)
        crops = [decode.resized(*part, size) for part in parts]
        since = lap("crop", since)
        stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        since = lap("collate", since)
        data.training_batch((stacked, torch.zeros(len(indices), dtype=torch.long), torch.tensor(indices), []), 0)
        lap("transfer", since)
        images += len(indices)
        sampler.set_epoch(images)
    return {stage: total / images for stage, total in spent.items()}


class _Plain(Dataset[Any]):
    """torchvision's own way to a training image, from the bytes of the same source."""

    def __init__(self, source: Source, transform: Any) -> None:
        self.source, self.transform, self.labels = source, transform, source.labels("train").tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        image = Image.open(io.BytesIO(self.source.read("train", index))).convert("RGB")
        return self.transform(image), self.labels[index]


def _plain_loader(data: ImageFolder, size: int) -> DataLoader[Any]:
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.own_mean, data.own_std),
        ]
    )
    return DataLoader(_Plain(data.images, transform), batch_size=BATCH, shuffle=True, drop_last=True)


def _forever(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader
