"""bench data: how fast a data set's batches come, beside torchvision's way, measured in turn in one run."""

from __future__ import annotations

import io
import itertools
import statistics
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reslightning.data import augmentations, decode
from reslightning.data.base import FILE_CROP, DataModule
from reslightning.data.folder import ImageFolder
from reslightning.data.memory import InMemory
from reslightning.data.registry import load
from reslightning.data.sampler import TrainSampler
from reslightning.data.sources import Source
from reslightning.errors import UserError

Batches = Iterator[tuple[Tensor, Tensor]]
BATCH = 32  # of image files


Measured = TypeVar("Measured")


def in_turn(rounds: int, *ways: Callable[[], Measured]) -> list[list[Measured]]:
    """Return what each way measures, A B C C B A: a drifting machine drifts for all, and none is always the last."""
    found: list[list[Measured]] = [[] for _ in ways]
    for number in range(rounds):
        order = list(zip(ways, found, strict=True))
        for way, measured in reversed(order) if number % 2 else order:
            measured.append(way())
    return found


def ratio(first: list[float], second: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def rate(source: Batches, seconds: float) -> float:
    """Return images per second of (images, labels) batches."""
    for _ in range(3):
        next(source)
    images, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        images += len(next(source)[1])
    return images / elapsed


def print_rates(rates: dict[str, list[float]]) -> None:
    """Print medians with their spread."""
    for name, measured in rates.items():
        spread = f"{min(measured):,.0f} to {max(measured):,.0f}"
        print(f"  {statistics.median(measured):>10,.0f} images/s  {name} ({spread})")


def bench_data(args: Namespace) -> None:
    """Measure the data set that ``bench``'s options name."""
    kind: Any = load(args.data)
    if kind.reads_files:
        ours, plain = (
            kind(root=root, train_size=args.size, batch_size=1, num_workers=0, val_split=1)
            for root in (args.root, args.reference or args.root)
        )
        _bench_files(ours, plain, args.rounds, args.seconds, args.gpu_rate)
    else:
        _bench_memory(kind(root=args.root, batch_size=args.batch_size), args.rounds, args.seconds)


def batches(data: DataModule, size: int, device: torch.device | str = "cpu") -> Batches:
    """Yield training batches without end, as a training on one device gets them."""
    sampler, epoch = _sampler(data, size), 0
    while True:
        sampler.set_epoch(epoch)
        for content in data.loader("train", sampler, size):
            host = data.indices(content).numpy()  # or the message about a corrupt image
            yield data.training_batch(move_data_to_device(content, device), epoch, host)
        epoch += 1


def forever(loader: Iterable[Any]) -> Batches:
    """Yield a loader's batches without end."""
    while True:
        yield from loader


def _sampler(data: DataModule, size: int) -> TrainSampler:
    return TrainSampler(data.n_samples("train"), size, seed=0, rank=0, world_size=1)


# -- images in memory ------------------------------------------------------------------------------


def _bench_memory(data: InMemory, rounds: int, seconds: float) -> None:
    data.setup()
    torch.set_num_threads(1)
    plain_loader = plain_memory_loader(data)
    name = type(data).__name__.replace("CIFAR", "CIFAR-")
    print(f"{name} to normalised float batches of {data.batch_size}, one core, {rounds} rounds in turn")
    ours, plain = in_turn(
        rounds, lambda: rate(batches(data, data.batch_size), seconds), lambda: rate(forever(plain_loader), seconds)
    )
    print_rates({"reslightning": ours, "torchvision CIFAR10, PIL transforms, DataLoader": plain})
    print(f"ratio {ratio(ours, plain):.1f}")


def plain_memory_loader(data: InMemory) -> DataLoader[Any]:
    """Return torchvision's own class and way to images of the same data set."""
    from torchvision import datasets, transforms

    # Only its reader of files is passed over, because it takes the python layout with official checksums alone.
    plain = datasets.CIFAR10.__new__(datasets.CIFAR10)
    images, labels = data.load(train=True)
    if data.batch_size > len(images):
        raise UserError(f"--batch_size={data.batch_size} is more than there are training images: {len(images):,}")
    plain.data, plain.targets = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
    plain.target_transform = None
    plain.transform = transforms.Compose(
        [
            transforms.RandomCrop(data.image_size, padding=data.crop_padding),
            *([transforms.RandomHorizontalFlip()] if data.flip else []),
            transforms.ToTensor(),
            transforms.Normalize(data.own_mean, data.own_std),
        ]
    )
    return DataLoader(plain, batch_size=data.batch_size, shuffle=True, drop_last=True)


# -- image files -----------------------------------------------------------------------------------


def _bench_files(data: ImageFolder, reference: ImageFolder, rounds: int, seconds: float, gpu_rate: float) -> None:
    """Print images per second of one core from files to normalised batches, by stage, and cores for a rate."""
    torch.set_num_threads(1)
    decode.use_one_thread()
    size, count = data.train_size, data.n_samples("train")
    if min(count, reference.n_samples("train")) < BATCH:
        raise UserError(f"{data.root} has {count} training images; at least {BATCH} are needed to measure")
    print(f"{data.root}: {count:,} training images to normalised float batches, one core, {rounds} rounds in turn")
    ours, plain = in_turn(
        rounds,
        lambda: rate(batches(data, BATCH), seconds),
        lambda: rate(forever(plain_file_loader(reference, size, BATCH)), seconds),
    )
    print_rates({"reslightning": ours, f"torchvision, PIL and DataLoader on {reference.root}": plain})
    print(f"ratio {ratio(ours, plain):.2f}")
    print("  stage       ms an image   images/s")
    for stage, spent in _stages(data, seconds).items():
        print(f"  {stage:10} {1e3 * spent:12.3f} {1 / spent:10,.0f}")
    one = statistics.median(ours)
    print(f"a GPU that takes {gpu_rate:,.0f} images/s needs {gpu_rate / one:.1f} such cores (--gpu_rate)")


def _stages(data: ImageFolder, seconds: float) -> dict[str, float]:
    """Return seconds an image of every stage, one behind the other on the same images."""
    spent: dict[str, float] = defaultdict(float)
    sampler, size, images, started = _sampler(data, BATCH), data.train_size, 0, time.perf_counter()

    def lap(stage: str, since: float) -> float:
        spent[stage] += (now := time.perf_counter()) - since
        return now

    while time.perf_counter() - started < seconds:
        indices = list(itertools.islice(sampler, BATCH))
        drawn = augmentations.draws(0, images, torch.tensor(indices), decode.CROP_DRAWS, first=FILE_CROP).tolist()
        since = time.perf_counter()
        files = [data.images.read("train", index) for index in indices]
        since = lap("read", since)
        parts = [decode.decode_part(*pair, size, upright=data.upright) for pair in zip(files, drawn, strict=True)]
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


def plain_file_loader(data: ImageFolder, size: int, batch_size: int, workers: int = 0) -> DataLoader[Any]:
    """Return torchvision's own way to crops of the same images."""
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.own_mean, data.own_std),
        ]
    )
    images = _Plain(data.images, transform)
    return DataLoader(images, batch_size=batch_size, shuffle=True, drop_last=True, num_workers=workers)
