"""Responses of networks whose weights are set, against what they are by hand, and as forward hooks see them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from reslightning.analysis.responses import Spread, responding, responses
from reslightning.errors import UserError
from reslightning.models.architectures import Architecture
from reslightning.models.resnet import ResNet
from tests.analysis.test_gradient_flow import small

# Scale and shift of each layer's normalisation: mean, variance, weight, bias.
NORMS = {"bn1": (0.5, 4.0, 3.0, 2.0), "layer1.0.bn1": (-1.0, 0.25, 0.5, 7.0), "layer1.0.bn2": (2.0, 9.0, -9.0, 90.0)}
FACTORS = {"conv1": 2.0, "layer1.0.conv1": 3.0, "layer1.0.conv2": 0.5}


def linear() -> ResNet:
    """Return a plain network of one block that maps each of three channels for itself, place by place, and is positive.

    So no rectifier does anything, and every response is a linear function of the pixel.
    """
    network = ResNet(Architecture("basic", (1,), (3,), "cifar", 3, 4, None, "v1"), num_classes=3).double()
    with torch.no_grad():
        for name, factor in FACTORS.items():
            weight = network.get_submodule(name).weight.zero_()
            weight[range(3), range(3), 1, 1] = factor
        for name, (mean, variance, scale, shift) in NORMS.items():
            norm = network.get_submodule(name)
            norm.running_mean.fill_(mean)
            norm.running_var.fill_(variance - norm.eps)
            norm.weight.fill_(scale)
            norm.bias.fill_(shift)
    return network


def by_hand(images: np.ndarray) -> dict[str, float]:
    """Return the deviation of each response by numpy, of all values at once."""
    found, x = {}, images
    for (layer, factor), (mean, variance, scale, shift) in zip(FACTORS.items(), NORMS.values(), strict=True):
        x = (factor * x - mean) / np.sqrt(variance) * scale + shift
        assert x.min() > 0
        found[layer] = x.std()
    return found


def as_found(network, batches) -> dict[str, float]:
    return {one.layer: one.deviation for one in responses(network, batches)}


def test_a_linear_network_s_are_those_computed_by_hand():
    images = torch.rand(29, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, wanted = as_found(linear(), [images]), by_hand(images.numpy())
    assert list(found) == list(wanted)
    for layer, deviation in wanted.items():
        assert found[layer] == pytest.approx(deviation, rel=1e-12)
    # In front of normalisation, or behind the next layer, they would be others.
    assert len({round(value, 6) for value in [*found.values(), images.numpy().std()]}) == 4


@pytest.mark.parametrize("size", [1, 7, 28])
def test_they_do_not_depend_on_how_images_are_batched(size):
    images = torch.randn(29, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images[:3] += 50  # batches of other means than the whole
    wanted = as_found(small("basic", "B", "v1"), [images])
    found = as_found(small("basic", "B", "v1"), images.split(size))
    for layer, deviation in wanted.items():
        assert found[layer] == pytest.approx(deviation, rel=1e-12)


def test_a_mean_of_each_batch_s_deviation_would_be_another():
    images = torch.cat([torch.zeros(4, 3, 4, 4), torch.ones(4, 3, 4, 4)]).double()
    assert all(one.deviation > 0.1 for one in responses(linear(), images.split(4)))  # of each batch they are 0


@pytest.mark.parametrize("far", [0.0, 1e6])
def test_sums_are_stable(far):
    values = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + far
    spread = Spread()
    for part in values.split(7):
        spread.add(part)
    assert spread.deviation == pytest.approx(values.numpy().std(), rel=1e-9)


@pytest.mark.parametrize(
    ("block", "version", "norm", "behind"),
    [
        ("basic", "v1", "batch", {"conv1": "bn1", "layer2.0.conv2": "layer2.0.bn2"}),
        ("basic", "v1", "none", {"conv1": "bn1", "layer1.1.conv2": "layer1.1.bn2"}),
        ("bottleneck", "v1.5", "batch", {"conv1": "bn1", "layer1.0.conv2": "layer1.0.bn2"}),
        ("basic", "v2", "batch", {"conv1": "conv1", "layer1.0.conv2": "layer1.0.conv2"}),
        ("bottleneck", "v2", "batch", {"conv1": "conv1", "layer1.1.conv2": "layer1.1.conv2"}),
    ],
)
def test_which_modules_respond(block, version, norm, behind):
    network = small(block, "B", version, norm)
    found = responding(network)
    assert len(found) == 1 + (8 if block == "basic" else 4)  # the stem and four blocks
    for layer, module in behind.items():
        assert found[layer] is network.get_submodule(module)
    images, seen = torch.randn(5, 3, 4, 4, dtype=torch.float64), {}
    wanted = copy.deepcopy(network).eval()
    for layer, module in behind.items():
        hook = lambda _, given, out, layer=layer: seen.update({layer: out.std(correction=0).item()})  # noqa: E731
        wanted.get_submodule(module).register_forward_hook(hook)
    wanted(images)
    measured = as_found(network, [images])
    for layer in behind:
        assert measured[layer] == pytest.approx(seen[layer], rel=1e-12)


def test_an_imagenet_stem_is_no_3x3_layer():
    network = ResNet(Architecture("basic", (1,), (4,), "imagenet", 3, 32, "B", "v1"), num_classes=3)
    assert list(responding(network)) == ["layer1.0.conv1", "layer1.0.conv2"]


def test_the_network_stays_as_it_is():
    network = small("basic", "A", "v1").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    responses(network, [torch.randn(2, 3, 4, 4).double()])
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_networks_without_blocks_are_refused_by_name():
    with pytest.raises(UserError, match="vgg16 has no blocks"):
        responses(nn.Sequential(nn.Conv2d(3, 3, 3)), [], "vgg16")
