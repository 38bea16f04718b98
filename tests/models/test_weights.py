"""Weights from anywhere: what fits goes in unchanged, what does not is listed name by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models._api import WeightsEnum

import reslightning
from reslightning.errors import UserError
from reslightning.models.resnet import build_model
from reslightning.models.weights import load_weights, torchvision_weights


@pytest.fixture
def source():
    torch.manual_seed(1)
    return build_model("resnet20")


def assert_loaded(model, source):
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {f"model._orig_mod.{k}": v for k, v in state.items()},
        lambda state: {k.replace("fc.", "linear."): v for k, v in state.items()},
        lambda state: {k: v for k, v in state.items() if "num_batches_tracked" not in k},
    ],
    ids=["plain", "state_dict", "model", "module", "compiled", "linear", "before-counters"],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt"])
def test_third_party_layouts(source, tmp_path, wrap, suffix):
    path = tmp_path / f"weights{suffix}"
    torch.save(wrap(dict(source.state_dict())), path)
    assert_loaded(build_model("resnet20", weights=str(path)), source)


def test_safetensors(source, tmp_path):
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    assert_loaded(build_model("resnet20", weights=str(tmp_path / "weights.safetensors")), source)


def test_every_name_that_does_not_fit_is_listed(source, tmp_path):
    state = dict(source.state_dict())
    del state["bn1.weight"]
    state["extra.weight"] = torch.zeros(3)
    state["fc.weight"] = torch.zeros(100, 64)
    torch.save(state, tmp_path / "weights.pt")
    model = build_model("resnet20")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match="3 names") as error:
        load_weights(model, str(tmp_path / "weights.pt"), "resnet20")
    for said in (
        "missing     bn1.weight [16]",
        "unexpected  extra.weight [3]",
        "misshapen   fc.weight",
        "[100, 64]",
        "3 names",
    ):
        assert said in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_folder_without_a_run_and_no_file(tmp_path):
    with pytest.raises(UserError, match=r"no summary\.json"):
        reslightning.build_model("resnet20", weights=str(tmp_path))
    with pytest.raises(UserError, match="no weights at"):
        reslightning.build_model("resnet20", weights=str(tmp_path / "missing.pt"))


@pytest.mark.parametrize(
    ("source", "arch", "said"),
    [
        ("torchvision:IMAGENET1K_V3", "resnet50", "did you mean 'IMAGENET1K_V2'"),
        ("torchvision:IMAGENET1K_V1", "resnet20", "torchvision has no weights for 'resnet20'"),
    ],
)
def test_unknown_torchvision_weights(source, arch, said):
    with pytest.raises(UserError, match=said):
        build_model(arch, weights=source)


OF_TORCHVISION = ("export torchvision:resnet18 --to out", "predict a.png --model.weights torchvision:resnet18")


@pytest.mark.parametrize("command", OF_TORCHVISION)
def test_without_internet_it_is_said_how_weights_come_here(cli, monkeypatch, command):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fail)
    Path("a.png").touch()
    found = cli(command)
    assert found.status == 2
    assert "`reslightning fetch torchvision:resnet18.IMAGENET1K_V1 --to DIR`" in found.err
    assert "new_head" not in found.err


def test_torchvision_names():
    assert torchvision_weights("torchvision:IMAGENET1K_V2", "resnet50").name == "IMAGENET1K_V2"
    assert torchvision_weights("torchvision:resnet18").name == "IMAGENET1K_V1"
    assert torchvision_weights("torchvision:resnet50.IMAGENET1K_V1").name == "IMAGENET1K_V1"
