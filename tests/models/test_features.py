"""Vectors and maps in front of the final layer: exactly what the logits are made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reslightning.models.features import Features
from reslightning.models.resnet import build_model

IMAGES = torch.randn(3, 3, 64, 64)


@pytest.mark.parametrize("name", ["resnet20", "plain20", "resnet18", "resnet164", "googlenet"])
def test_a_class_s_map_averages_to_its_logit(name):
    torch.manual_seed(0)
    network = build_model(name, num_classes=7).eval()
    features = Features(network)
    with torch.no_grad():
        logits = network(IMAGES)
    classes = torch.tensor([0, 3, 6])
    maps = features.class_maps(classes)
    assert features.maps_classes
    assert maps.ndim == 3
    found = maps.mean((1, 2)) + network.fc.bias[classes]
    assert torch.allclose(found, logits[range(3), classes], atol=1e-4)


@pytest.mark.parametrize("name", ["resnet20", "resnet164", "vgg16", "googlenet"])
def test_features_are_the_vectors_that_a_hook_sees(name, tmp_path):
    with torch.device("meta"):
        network = build_model(name, num_classes=7, features=True)
        seen = Features(network)
        found = network(IMAGES.to("meta"))
    assert found.shape == seen.vectors.shape == (3, {"resnet20": 64, "vgg16": 25_088, "googlenet": 1024}.get(name, 256))
    assert not any(isinstance(module, nn.Linear) for module in network.modules())


def test_features_take_weights_with_the_final_layer(tmp_path):
    network = build_model("resnet20").eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    vectors = build_model("resnet20", weights=str(tmp_path / "w.pth"), features=True).eval()
    with torch.no_grad():
        assert torch.equal(network.fc(vectors(IMAGES)), network(IMAGES))


def test_vgg_has_no_map_of_a_class():
    with torch.device("meta"):
        assert not Features(build_model("vgg16")).maps_classes
