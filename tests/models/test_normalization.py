"""Networks without batch normalisation: Fixup against its formulas, plain ones with biases, and what is refused."""

import pytest
import torch
from torch import nn

from reslightning.errors import UserError
from reslightning.models.blocks import branch_convolutions
from reslightning.models.normalization import Bias
from reslightning.models.resnet import build_model


@pytest.mark.parametrize(("name", "branches", "power"), [("resnet18", 8, -1 / 2), ("resnet50", 16, -1 / 4)])
def test_fixup_starts_as_published(name, branches, power):
    torch.manual_seed(0)
    model = build_model(name, norm="none")
    assert len(model.blocks) == branches
    for block in model.blocks:
        *others, last = branch_convolutions(block)
        for convolution in others:
            he = (2 / (convolution.out_channels * convolution.kernel_size[0] ** 2)) ** 0.5
            assert convolution.weight.std().item() == pytest.approx(he * branches**power, rel=0.05)
            assert convolution.multiplier is None
        assert not last.weight.any()
        assert last.multiplier.item() == 1
        if block.downsample is not None:
            projection = block.downsample[0]
            he = (2 / projection.out_channels) ** 0.5
            assert projection.weight.std().item() == pytest.approx(he, rel=0.05)  # no branch: it is not scaled
    assert not model.fc.weight.any()
    assert not model.fc.bias.any()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_fixup_s_scalars_stand_before_convolutions_and_activations_and_behind_branches(version):
    block = build_model("resnet20", norm="none", version=version).layer1[1].double()
    nn.init.normal_(block.conv2.weight)
    for name, parameter in block.named_parameters():
        if parameter.numel() == 1:
            nn.init.constant_(parameter, {"multiplier": 3.0, "shift": 0.5, "bias": 0.25}[name.split(".")[-1]])
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)

    def convolved(maps, weight):
        return nn.functional.conv2d(maps + 0.5, weight, padding=1)

    if version == "v1":
        inner = (convolved(x, block.conv1.weight) + 0.25).relu()
        expected = (x + 3 * convolved(inner, block.conv2.weight) + 0.25).relu()
    else:
        inner = convolved((x + 0.25).relu(), block.conv1.weight)
        expected = x + 3 * convolved((inner + 0.25).relu(), block.conv2.weight)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-10)


def test_no_network_without_normalisation_looks_at_the_other_images_of_a_batch():
    for name in ("plain8", "resnet8"):
        model = build_model(name, norm="none").double()
        nn.init.normal_(model.fc.weight)
        images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(model(images)[:1], model(images[:1]))
        assert not list(model.buffers())


def test_a_plain_network_has_he_s_start_and_a_bias_for_each_channel():
    torch.manual_seed(0)
    model, normalized = build_model("plain20", norm="none"), build_model("plain20")
    assert model.layer1[0].conv2.weight.std().item() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.05)
    assert isinstance(model.layer3[0].bn2, Bias)
    own = {name: value.shape for name, value in model.state_dict().items()}
    assert own.items() <= {name: value.shape for name, value in normalized.state_dict().items()}.items()
    assert model.fc.weight.any()


def test_residual_weights_keep_their_names():
    own, usual = build_model("resnet18", norm="none").state_dict(), build_model("resnet18").state_dict()
    weights = {name for name in own if name.endswith("weight")}
    assert weights == {name for name, value in usual.items() if value.ndim > 1}
    assert all(own[name].shape == usual[name].shape for name in weights)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arch": "vgg16", "norm": "none"}, "vgg16 is as torchvision has it: leave out norm 'none'"),
        ({"arch": "resnet20", "norm": "nome"}, "unknown norm 'nome'; allowed: batch, none"),
        (
            {"arch": "resnet20", "norm": "none", "zero_init_residual": True},
            "with norm none every branch starts at zero",
        ),
        (
            {"arch": "resnet18", "norm": "none", "weights": "torchvision:IMAGENET1K_V1"},
            "is of a network with batch normalisation, and norm none was asked for",
        ),
    ],
)
def test_what_means_nothing_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        build_model(**options)
