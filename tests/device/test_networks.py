"""Every kind of network is trained, and those of torchvision's are evaluated, without waiting for the device."""

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from reslightning.models.architectures import ARCHITECTURES, SHORTCUTS, Architecture, Norm, Version
from reslightning.models.borrowed import BORROWED
from reslightning.models.resnet import ResNet, build_model
from tests.device.pretended import CUDA, steady

ROWS = [row for row in ARCHITECTURES.values() if isinstance(row, Architecture)]
BLOCKS, STEMS = (sorted({getattr(row, name) for row in ROWS}) for name in ("block", "stem"))
KINDS = list(product(BLOCKS, get_args(Version), [*SHORTCUTS, None], get_args(Norm)))


@pytest.mark.parametrize(("block", "version", "shortcut", "norm"), KINDS)
def test_a_network_waits_for_nothing(device, block, version, shortcut, norm):
    for stem in STEMS:
        kind = replace(ROWS[0], block=block, version=version, shortcut=shortcut, norm=norm, stem=stem)
        network = ResNet(replace(kind, depths=(1, 1), widths=(2, 4)), num_classes=5).to(CUDA)
        images, labels = torch.rand(2, 3, 32, 32, device=CUDA), torch.zeros(2, dtype=torch.int64, device=CUDA)
        with steady(device):
            F.cross_entropy(network(images), labels).backward()
        assert all(parameter.grad.device == CUDA for parameter in network.parameters())


@pytest.mark.parametrize("name", BORROWED)
def test_a_network_of_torchvision_waits_for_nothing(device, name):
    with torch.device(CUDA):
        network = build_model(name, num_classes=5).eval()
    with steady(device), torch.no_grad():
        assert network(torch.rand(2, 3, 64, 64, device=CUDA)).shape == (2, 5)
