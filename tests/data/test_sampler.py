"""Every sample once, at any world size, and the same global batches."""

import pytest

from reslightning.data.sampler import EvalSampler, TrainSampler


def train(world_size, epoch=0, resumed=0, samples=103, batch=24):
    ranks = []
    for rank in range(world_size):
        sampler = TrainSampler(samples, batch, seed=0, rank=rank, world_size=world_size)
        sampler.resume_at(epoch, resumed)
        ranks.append(list(sampler))
        assert len(sampler) == 96 // world_size
    return ranks


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8])
def test_global_batches_are_the_same_sets(world_size):
    (alone,) = train(1)
    together = train(world_size)
    part = 24 // world_size
    for step in range(4):
        batch = [s for rank in together for s in rank[step * part : (step + 1) * part]]
        assert sorted(batch) == sorted(alone[step * 24 : (step + 1) * 24])
    assert len({s for rank in together for s in rank}) == 96


def test_epochs_differ_and_resume_leaves_out_what_was_trained_of_one_epoch():
    (first,), (second,) = train(1, 0), train(1, 1)
    assert first != second
    assert set(first) != set(second)  # the incomplete batch leaves out others
    assert train(2, 1, 48) == [rank[24:] for rank in train(2, 1)]
    sampler = TrainSampler(103, 24, seed=0, rank=0, world_size=1)
    sampler.resume_at(0, 96)
    assert list(sampler) == []
    sampler.set_epoch(1)
    assert list(sampler) == second


@pytest.mark.parametrize("world_size", range(1, 9))
@pytest.mark.parametrize("samples", [359, 10_001])
def test_evaluation_sees_every_sample_once(samples, world_size):
    seen = [s for rank in range(world_size) for s in EvalSampler(samples, rank=rank, world_size=world_size)]
    assert sorted(seen) == list(range(samples))
