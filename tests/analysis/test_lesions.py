"""Lesions of networks against the same networks built anew without the blocks, or in another order."""

import math
from itertools import combinations

import pytest
import torch
from torch import nn

from reslightning.analysis import lesions
from reslightning.analysis.lesions import REMOVED, Rearranged, bypassed, plan, removable
from reslightning.errors import UserError
from reslightning.models.architectures import Architecture
from reslightning.models.resnet import ResNet, build_model

NETWORKS = [
    *(("basic", shortcut, version) for shortcut in ("A", "B", "C", None) for version in ("v1", "v2")),
    *(("bottleneck", shortcut, version) for shortcut in ("B", "C", None) for version in ("v1.5", "v2")),
]
every_network = pytest.mark.parametrize(("block", "shortcut", "version"), NETWORKS)
# Blocks of three stages that keep their shape: the first stage of bottlenecks widens the stem's maps, too.
KEEPING = {"basic": [0, 1, 2, 4], "bottleneck": [1, 2, 4]}


def small(block: str, shortcut: str | None, version: str) -> ResNet:
    """Return a network of six narrow blocks in three stages, in float64, whose parameters are all at work."""
    torch.manual_seed(1)
    stages = Architecture(block, (3, 2, 1), (2, 4, 6), "cifar", 3, 8, shortcut, version)
    network = ResNet(stages, num_classes=3).double().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.ndim < 2 else 0.0, 0.5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network


def instead(block: nn.Module, *, is_first: bool, version: str) -> list[nn.Module]:
    """Return what is left of a block without its convolutions: of an identity behind a rectifier, nothing at all."""
    if block.plain:
        return []
    projection = [] if block.downsample is None else [block.downsample]
    if version == "v2":
        activated = is_first or projection
        return [*([block.bn1, nn.ReLU()] if activated else []), *projection]
    return [*projection, nn.ReLU()] if projection else []


def rebuilt(network: ResNet, version: str, order: list[int]) -> nn.Sequential:
    """Return a network of a network's layers alone, with its blocks in an order, some of them removed."""
    blocks = network.blocks
    stem = [network.conv1] if version == "v2" else [network.conv1, network.bn1, nn.ReLU()]
    tail = [network.norm, nn.ReLU()] if version == "v2" else []
    middle: list[nn.Module] = []
    for place, number in enumerate(order):
        removed = number == REMOVED
        middle += instead(blocks[place], is_first=place == 0, version=version) if removed else [blocks[number]]
    return nn.Sequential(*stem, *middle, *tail, nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.fc)


@torch.no_grad()
def check(network: ResNet, version: str) -> None:
    """Assert that every lesion of a plan gives what the network gives that is built without it."""
    planned = plan(network, draws=4, seed=0)
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    orders = list(dict.fromkeys(one.order for one in planned))
    found = Rearranged(network, orders)(images).view(len(orders), 5, 3)
    assert torch.equal(found[0], network(images))
    for order, logits in zip(orders, found, strict=True):
        torch.testing.assert_close(logits, rebuilt(network, version, list(order))(images), rtol=0, atol=1e-9)
    assert not any(torch.equal(logits, found[0]) for logits in found[1:])


@every_network
def test_each_lesion_gives_what_a_network_built_so_gives(block, shortcut, version):
    network = small(block, shortcut, version)
    assert removable(network) == KEEPING[block]
    check(network, version)


@every_network
def test_a_removed_shortcut_is_found(monkeypatch, block, shortcut, version):
    monkeypatch.setattr(lesions, "bypassed", lambda block, x: 0 * bypassed(block, x))
    with pytest.raises(AssertionError):
        check(small(block, shortcut, version), version)


def test_a_rectifier_that_is_left_out_is_found_where_it_matters(monkeypatch):
    check(small("basic", "A", "v1"), "v1")
    monkeypatch.setattr(lesions, "bypassed", lambda block, x: block.shortcut(x))
    check(small("basic", "A", "v1"), "v1")  # what comes from a rectifier is not negative
    with pytest.raises(AssertionError):
        check(small("basic", "C", "v1"), "v1")


def test_an_activation_that_is_left_out_is_found(monkeypatch):
    monkeypatch.setattr(lesions, "bypassed", lambda block, x: block.shortcut(x))
    with pytest.raises(AssertionError):
        check(small("basic", "A", "v2"), "v2")


def test_blocks_that_change_the_shape_being_removed_is_found(monkeypatch):
    monkeypatch.setattr(lesions, "changes_shape", lambda block: False)
    assert removable(small("basic", "A", "v1")) != KEEPING["basic"]
    with pytest.raises(RuntimeError, match="shapes"):
        check(small("basic", None, "v1"), "v1")


def test_a_stride_alone_changes_the_shape():
    network = small("basic", "A", "v1")
    network.layer2[1].conv1.stride = (2, 2)
    assert removable(network) == [0, 1, 2]


def test_the_network_keeps_its_bits():
    network = small("basic", "B", "v1")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check(network, "v1")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_is_planned():
    network = build_model("resnet32")  # stages of five blocks
    planned = plan(network, draws=6, seed=0)
    kinds = {kind: [one for one in planned if one.kind == kind] for kind in ("none", "block", "removed", "swapped")}
    assert planned[0].order == tuple(range(15))
    assert planned[0].tau == 1
    assert len(planned) == sum(map(len, kinds.values()))
    assert [one.blocks[0] for one in kinds["block"]] == [
        *(f"layer1.{number}" for number in range(5)),
        *(f"layer{stage}.{number}" for stage in (2, 3) for number in range(1, 5)),
    ]
    for kind in ("removed", "swapped"):
        assert [one.number for one in kinds[kind]] == [number for number in (1, 2, 4, 8) for _ in range(6)]
    for one in kinds["removed"]:
        assert sum(number == REMOVED for number in one.order) == one.number == len(one.blocks)
        assert len({other.order for other in kinds["removed"] if other.number == one.number}) == 6
    for one in kinds["swapped"]:
        assert sorted(one.order) == list(range(15))
        assert [number // 5 for number in one.order] == [0] * 5 + [1] * 5 + [2] * 5
        assert one.order[5] == 5
        assert one.order[10] == 10
        assert one.tau == pytest.approx(tau(one.order))
        assert one.order != planned[0].order or one.number > 2
        if one.number == 1:  # as many pairs of 105 are out of order as lie between the two, twice, and themselves
            near, far = (int(name.rpartition(".")[2]) for name in one.blocks)
            assert one.tau == pytest.approx(1 - 2 * (2 * (far - near) - 1) / 105)


def tau(order: tuple[int, ...]) -> float:
    """Return Kendall's tau by its definition: pairs in order less pairs that are not, of all pairs."""
    signs = [math.copysign(1, later - earlier) for earlier, later in combinations(order, 2)]
    return sum(signs) / len(signs)


def test_draws_are_the_seed_s():
    network = build_model("resnet32")

    def orders(seed):
        return [one.order for one in plan(network, 6, seed)]

    assert orders(0) == orders(0)
    assert orders(0) != orders(1)


def test_no_more_is_drawn_than_there_is():
    planned = plan(small("basic", "A", "v1"), draws=1000, seed=0)  # four blocks, and three pairs of one stage
    counts = {(kind, number): 0 for kind in ("removed", "swapped") for number in (1, 2, 4)}
    for one in planned:
        if (one.kind, one.number) in counts:
            counts[one.kind, one.number] += 1
    assert list(counts.values()) == [4, 6, 1, 3, 2, 0]  # two swaps of three blocks turn them one way or the other


def test_where_nothing_can_be_removed_it_is_said():
    network = ResNet(Architecture("bottleneck", (1, 1), (2, 4), "cifar", 3, 8, "B", "v1"), num_classes=3)
    with pytest.raises(UserError, match="mine has no block that can be removed: each of its 2 changes the shape"):
        plan(network, 10, 0, "mine")
    with pytest.raises(UserError, match="vgg16 has no blocks"):
        plan(nn.Sequential(), 10, 0, "vgg16")
