"""The table against the paper's numbers, and its arithmetic against the networks themselves."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from reslightning.errors import UserError
from reslightning.models import architectures
from reslightning.models.architectures import Family, cost, get_architecture, list_architectures
from reslightning.models.borrowed import BORROWED
from reslightning.models.resnet import build_model

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet1202": 19_421_274,
}
LECTURE = {"resnet18": 1.8, "resnet34": 3.6, "resnet50": 3.8, "resnet101": 7.6, "resnet152": 11.3}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters_are_the_published_ones(name, parameters):
    assert cost(name).parameters == parameters


@pytest.mark.parametrize(("name", "billions"), LECTURE.items())
def test_multiply_adds_are_the_lectures(name, billions):
    assert cost(name, version="v1").multiply_adds / 1e9 == pytest.approx(billions, abs=0.1)


def measured(model: nn.Module, size: int) -> tuple[int, int]:
    """Count parameters, and multiply-adds from the shapes a forward pass produces."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        weight = module.weight
        total += weight.numel() * (output.shape[-1] * output.shape[-2] if weight.ndim == 4 else 1)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return sum(p.numel() for p in model.parameters()), total


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("version", ["v1", "v1.5", "v2"])
@pytest.mark.parametrize(
    ("name", "shortcut"),
    [
        *product(["resnet18", "resnet50", "resnet20", "short164", "resnet50_cifar"], ["A", "B", "C"]),
        *product(["plain18", "plain20"], [None]),
    ],
)
def test_the_arithmetic_is_the_networks(monkeypatch, name, shortcut, version, norm):
    # Its first block of a stage and its others are all the blocks there are.
    monkeypatch.setitem(
        architectures.ARCHITECTURES, "short164", replace(get_architecture("resnet164"), depths=(2, 2, 2))
    )
    options = {"shortcut": shortcut, "version": version, "norm": norm, "num_classes": 7}
    with torch.device("meta"):
        model = build_model(name, **options)
    assert measured(model, get_architecture(name).image_size) == cost(name, **options)


@pytest.mark.parametrize("name", sorted({*list_architectures()} - {*BORROWED, "resnet1202", "resnet1001"}))
def test_every_network_of_the_table_is_what_it_says(name):
    architecture = get_architecture(name)
    with torch.device("meta"):
        model = build_model(name)
    assert measured(model, architecture.image_size) == cost(name)
    main_path = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "downsample" not in n]
    assert len(main_path) == architecture.layers == int("".join(filter(str.isdigit, name.removesuffix("_cifar"))))


def test_plain_is_residual_without_its_shortcuts():
    assert cost("plain34").parameters == cost("resnet34", shortcut="A").parameters
    assert cost("plain20").parameters == cost("resnet20").parameters


def test_other_depths_by_name():
    assert get_architecture("resnet26").depths == (4, 4, 4)
    assert get_architecture("plain8").shortcut is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet21", "resnet20 and resnet26"),
        ("plain21", "plain20 and plain26"),
        ("resnet3", "resnet8"),
        ("resnett20", "did you mean 'resnet20'"),
        ("vgg", "did you mean 'vgg19' or 'vgg16'.\nallowed: resnet18"),
        ("vgg11", r"of any depth D = 6n \+ 2; to be evaluated alone: vgg16, vgg19, vgg16_bn, vgg19_bn, googlenet$"),
    ],
)
def test_unknown_names_come_with_the_nearest(name, said):
    with pytest.raises(UserError, match=said):
        get_architecture(name)


def test_a_new_family_is_a_row(monkeypatch):
    wide = Family(6, lambda n: replace(get_architecture(f"resnet{6 * n + 2}"), widths=(160, 320, 640)), (2,))
    monkeypatch.setitem(architectures.FAMILIES, "wide", wide)
    assert get_architecture("wide26").layers == 26
    with pytest.raises(UserError, match="the nearest are wide14 and wide20"):
        get_architecture("wide15")
    with pytest.raises(UserError, match=r"and resnetD or plainD or wideD of any depth D = 6n \+ 2"):
        get_architecture("narrow20")


def test_unknown_options_come_with_those_there_are():
    with pytest.raises(UserError, match="unknown shortcut 'Z'; allowed: A, B, C"):
        cost("resnet20", shortcut="Z")
    with pytest.raises(UserError, match=r"unknown version 'v3'; allowed: v1, v1\.5, v2"):
        cost("resnet20", version="v3")
    with pytest.raises(UserError, match="unknown norm 'layer'; allowed: batch, none"):
        cost("resnet20", norm="layer")
    with pytest.raises(UserError, match="vgg16 is as torchvision has it: leave out norm 'none'"):
        cost("vgg16", norm="none")
