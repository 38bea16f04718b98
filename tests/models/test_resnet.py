"""The network against torchvision's, and each option against its definition."""

from typing import get_args

import pytest
import torch
import torchvision
from torch import nn

from reslightning.errors import UserError
from reslightning.models.architectures import SHORTCUTS, Version, cost
from reslightning.models.blocks import PreActivationBlock
from reslightning.models.resnet import build_model
from reslightning.models.shortcuts import ZeroPad


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet34",
        "resnet50",
        *[pytest.param(name, marks=pytest.mark.slow) for name in ("resnet101", "resnet152")],
    ],
)
def test_torchvisions_weights_give_torchvisions_logits_both_ways(name):
    torch.manual_seed(0)
    ours, theirs = build_model(name).eval(), torchvision.models.get_model(name).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)
        fresh = build_model(name)
        theirs.load_state_dict(fresh.state_dict())
        torch.testing.assert_close(fresh.eval()(images), theirs.eval()(images), rtol=0, atol=1e-5)


def test_zero_padding_is_the_identity_between_zeros():
    images = torch.randn(2, 16, 8, 8)
    padded = ZeroPad(16, 32, 2)(images)
    assert torch.equal(padded[:, 8:24], images[:, :, ::2, ::2])
    assert not padded[:, :8].any()
    assert not padded[:, 24:].any()


def test_versions_differ_in_where_the_stride_is():
    blocks = {version: build_model("resnet50", version=version).layer2[0] for version in ("v1", "v1.5")}
    strides = {version: (block.conv1.stride[0], block.conv2.stride[0]) for version, block in blocks.items()}
    assert strides == {"v1": (2, 1), "v1.5": (1, 2)}


def test_pre_activation_keeps_the_identity_path_clean():
    model = build_model("resnet20", version="v2").eval()
    block = model.layer1[1]
    assert isinstance(block, PreActivationBlock)
    nn.init.zeros_(block.conv2.weight)
    images = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(images), images)  # negative values too: no rectifier behind the sum
    assert not hasattr(model, "bn1")
    assert model.norm.num_features == 64


def test_zero_initialised_blocks_start_as_identities():
    model = build_model("resnet20", zero_init_residual=True).eval()
    images = torch.rand(2, 16, 8, 8)
    assert torch.equal(model.layer1[1](images), images)
    assert all(not block.bn2.weight.any() for block in model.layer2)


def test_plain_blocks_add_nothing():
    block = build_model("plain20").layer1[1].eval()
    nn.init.zeros_(block.conv2.weight)
    assert not block(torch.rand(2, 16, 8, 8)).any()


def test_he_initialisation():
    weight = build_model("resnet18").layer4[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("name", ["resnet18_cifar", "resnet20", "resnet164"])
def test_cifar_stems_keep_the_size(name):
    with torch.device("meta"):
        model = build_model(name)
        assert model.maxpool(model.conv1(torch.zeros(1, 3, 32, 32))).shape[-2:] == (32, 32)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"arch": "resnet20", "shortcut": "Z"}, "allowed: A, B, C"),
        ({"arch": "resnet20", "version": "v3"}, "allowed: v1, v1.5, v2"),
        ({"arch": "plain20", "shortcut": "A"}, "plain20 has no shortcuts"),
        ({"arch": "plain20", "zero_init_residual": True}, "needs shortcuts"),
        ({"arch": "resnet164", "zero_init_residual": True}, "v1 or v1.5"),
    ],
)
def test_options_that_mean_nothing_are_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        build_model(**arguments)


@pytest.mark.parametrize("version", get_args(Version))
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_every_shortcut_costs_what_its_row_says(shortcut, version):
    model = build_model("resnet20", shortcut=shortcut, version=version)
    assert sum(p.numel() for p in model.parameters()) == cost("resnet20", shortcut=shortcut, version=version).parameters
