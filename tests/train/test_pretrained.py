"""Which network weights are of, and what it is taken to have seen."""

from __future__ import annotations

import re

import pytest
import torch
from torchvision.models import ResNet50_Weights
from torchvision.models._api import WeightsEnum

from reslightning import load
from reslightning.errors import UserError
from reslightning.models.resnet import build_model
from reslightning.train.pretrained import fitting

UNSAID = {"resnet18": None, "resnet50": None, "resnet164": None, "resnet32": "resnet32 and plain32"}
UNSAID |= {"plain34": None, "resnet18_cifar": None, "vgg16_bn": None, "googlenet": None, "resnet26": "resnet26 and"}


@pytest.mark.parametrize(("name", "several"), UNSAID.items())
def test_weights_are_known_by_their_names_and_shapes(name, several):
    with torch.device("meta"):
        state = build_model(name, num_classes=13).state_dict()
    if several is None:
        assert fitting(state, "w.pth") == name
    else:
        with pytest.raises(UserError, match=rf"the weights in w\.pth fit {several}"):
            fitting(state, "w.pth")


def test_weights_of_no_network(tmp_path):
    with pytest.raises(UserError, match=r"w\.pth are of no network that is known"):
        fitting({"layer1.0.conv1.weight": torch.ones(3), "fc.weight": torch.ones(2, 2)}, "w.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="of no network that is known"):
        load(tmp_path / "w.pth")


EXPORT = "export w.pth --to out"


def test_a_file_without_a_final_layer_is_known_by_the_rest(cli, tmp_path):
    source = build_model("resnet50")
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": {f"module.encoder_q.{name}": value for name, value in state.items()}}, tmp_path / "w.pth")
    found = cli(EXPORT)
    assert found.status == 2
    assert "w.pth are those of resnet50 without its final layer, and so know no classes" in found.err
    assert "fit --model.arch resnet50 --model.weights w.pth --model.new_head true" in found.err
    assert "They have no final layer: build_model(..., features=True)" in cli(f"{EXPORT} --model.arch resnet50").err
    python = re.search(r"reslightning\.(build_model\(.*\))\.", found.err)[1]
    vectors = eval(python, {"build_model": build_model}).eval()
    images = torch.randn(2, 3, 64, 64)
    source.eval().fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.equal(vectors(images), source(images))


@pytest.mark.parametrize("others", [{}, {"num_classes": 5}, {"shortcut": "B", "version": "v1"}])
def test_others_hyper_parameters_are_not_taken_for_ours(tmp_path, capsys, others):
    state = build_model("resnet50", num_classes=5).state_dict()
    torch.save({"state_dict": state, "hyper_parameters": {"arch": "resnet18", "lr": 1, **others}}, tmp_path / "w.ckpt")
    assert load(tmp_path / "w.ckpt").arch == "resnet50"
    assert "w.ckpt says nothing of its network: taken for resnet50" in capsys.readouterr().out


def test_a_bare_file_is_taken_for_what_is_usual_and_that_is_said(tmp_path, capsys):
    state = build_model("resnet50", num_classes=5).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pth")
    model = load(tmp_path / "w.pth")
    assert "w.pth says nothing of its network: taken for resnet50; classes 0 to 4" in capsys.readouterr().out
    assert (model.class_names, model.eval_resize, model.eval_size) == (["0", "1", "2", "3", "4"], 256, 224)
    assert not model.training
    assert torch.equal(model.model.fc.weight, state["fc.weight"])


def test_torchvision_s_entry_says_what_its_network_saw(monkeypatch):
    state = build_model("resnet50").state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: dict(state))
    model = load("torchvision:resnet50.IMAGENET1K_V2")
    how = ResNet50_Weights.IMAGENET1K_V2.transforms()
    assert (model.eval_resize, model.eval_size, model.interpolation) == (232, 224, "bilinear")
    assert torch.allclose(model.mean, torch.tensor(how.mean))
    assert len(model.class_names) == 1000
    assert model.class_names[0] == "tench"
