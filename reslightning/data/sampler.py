"""Which samples a process sees: every one exactly once, the same global batches at any world size."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DistributedSampler

from reslightning.data.augmentations import permutation_seed


class TrainSampler(DistributedSampler[int]):
    """A shuffled epoch's full global batches, dealt out to the processes in turn.

    Global batch k consists of the same samples at any world size. The order is a function of
    (seed, epoch). An incomplete last batch is dropped, other samples each epoch. A subclass of
    DistributedSampler, so that Lightning never replaces it.
    """

    def __init__(self, samples: int, batch_size: int, *, seed: int, rank: int, world_size: int) -> None:
        self.samples = samples - samples % batch_size
        self.population = samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.trained = (0, 0)

    def resume_at(self, epoch: int, samples: int) -> None:
        """Leave out the first ``samples`` of ``epoch``, of that epoch only."""
        self.epoch = epoch
        self.trained = (epoch, samples)

    def __iter__(self) -> Iterator[int]:
        """Yield this process's sample indices for the epoch."""
        generator = torch.Generator().manual_seed(permutation_seed(self.seed, self.epoch))
        order = torch.randperm(self.population, generator=generator)[: self.samples]
        epoch, samples = self.trained
        first = samples if epoch == self.epoch else 0
        return iter(order[first + self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        """Return the samples of a whole epoch, also while resuming: Lightning counts from there."""
        return self.samples // self.world_size


class EvalSampler(DistributedSampler[int]):
    """Every sample once, none repeated to make the processes even."""

    def __init__(self, samples: int, *, rank: int, world_size: int) -> None:
        self.indices = range(rank, samples, world_size)

    def set_epoch(self, epoch: int) -> None:
        """Evaluation has one order."""

    def __iter__(self) -> Iterator[int]:
        """Yield this process's sample indices."""
        return iter(self.indices)

    def __len__(self) -> int:
        """Return the number of this process's samples."""
        return len(self.indices)


LANES = 64  # what batches are added up in, each by one process: more processes have nothing to do


class WholeBatches(EvalSampler):
    """Some samples, drawn by the seed, in batches that are dealt out whole: the same ones at any number of processes.

    Attributes:
        numbers: which of the batches this process has, in its order; of those with the same remainder by LANES a
            process has all or none.
    """

    def __init__(
        self, population: int, samples: int, batch_size: int, *, seed: int, rank: int, world_size: int
    ) -> None:
        generator = torch.Generator().manual_seed(permutation_seed(seed, -2))
        batches = torch.randperm(population, generator=generator)[:samples].split(batch_size)
        self.numbers = [number for number in range(len(batches)) if number % LANES % world_size == rank]
        self.indices = [index for number in self.numbers for index in batches[number].tolist()]  # type: ignore[assignment]
