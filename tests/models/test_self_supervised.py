"""Backbones of self-supervised trainings, made of torchvision's networks as their authors make them."""

from itertools import chain, pairwise

import pytest
import torch
import torchvision
from torch import nn

from reslightning.errors import UserError
from reslightning.models.resnet import build_model
from reslightning.models.weights import load_weights
from tests.conftest import SMALL, checkpoint, summary
from tests.models.theirs import ARGS, logits, ours, under, varied


def mlp(*widths):
    layers = [[nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()] for a, b in pairwise(widths)]
    return nn.Sequential(*chain(*layers))


def encoder(head=None):
    """Return torchvision's network, as these trainings take it, with another final layer."""
    model = torchvision.models.resnet18(num_classes=16)
    model.fc = head(model.fc) if head else model.fc
    return model


def moco(head=None):
    model = nn.Module()
    model.encoder_q, model.encoder_k = encoder(head), encoder(head)
    model.register_buffer("queue", torch.randn(16, 64))
    model.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    return {"epoch": 200, "arch": "resnet18", "state_dict": under("module.", varied(model).state_dict())}


def simsiam():
    model = nn.Module()
    model.encoder = encoder(lambda fc: nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), fc))
    model.predictor = mlp(16, 4, 16)
    return {"state_dict": under("module.", varied(model).state_dict())}


def barlow():
    model = nn.Module()
    model.backbone, model.projector = encoder(lambda fc: nn.Identity()), mlp(512, 32, 32)
    model.bn = nn.BatchNorm1d(32, affine=False)
    return {"model": under("module.", varied(model).state_dict()), "optimizer": {}}


def lightly():
    model = nn.Module()
    for place in ("", "_momentum"):
        setattr(model, f"backbone{place}", nn.Sequential(*list(encoder().children())[:-1]))
        setattr(model, f"projection_head{place}", mlp(512, 32))
    model.prediction_head = mlp(32, 32)
    return {"state_dict": varied(model).state_dict(), "hyper_parameters": {}, "callbacks": {}}


def byol():
    model = nn.Module()
    for side in ("online", "target"):
        network = nn.Module()
        network.net, network.projector = encoder(), mlp(512, 32)
        setattr(model, f"{side}_encoder", network)
    model.online_predictor = mlp(32, 32)
    return varied(model).state_dict()


def solo():
    model = nn.Module()
    model.backbone, model.momentum_backbone = encoder(lambda fc: nn.Identity()), encoder(lambda fc: nn.Identity())
    model.classifier, model.projector, model.momentum_projector = nn.Linear(512, 10), mlp(512, 32), mlp(512, 32)
    return {"state_dict": varied(model).state_dict()}


PROJECTED = lambda fc: nn.Sequential(nn.Linear(512, 512), nn.ReLU(), fc)  # noqa: E731
SELF_SUPERVISED = {
    "moco v1": (moco, "encoder_q.", "momentum network (122), queue (2), projection head (2)"),
    "moco v2": (lambda: moco(PROJECTED), "encoder_q.", "momentum network (124), queue (2), projection head (4)"),
    "simsiam": (simsiam, "encoder.", "projection head (23)"),
    "barlow twins": (barlow, "backbone.", "projection head (17)"),
    "lightly": (lightly, "backbone.", "momentum network (127), projection head (14)"),
    "byol": (byol, "online_encoder.net.", "momentum network (129), projection head (16)"),
    "solo": (solo, "backbone.", "momentum network (127), projection head (7), classifier beside (2)"),
}


@pytest.mark.parametrize("kind", SELF_SUPERVISED)
def test_a_self_supervised_backbone_gets_a_new_head(kind, tmp_path, capsys):
    make, prefix, left = SELF_SUPERVISED[kind]
    content = make()
    torch.save(content, tmp_path / "theirs.pth")
    source = torchvision.models.resnet18(num_classes=3)
    theirs = next((content[key] for key in ("state_dict", "model") if key in content), content)
    own = {
        name.partition(prefix)[2]: value for name, value in theirs.items() if prefix in name and "momentum" not in name
    }
    if kind == "lightly":
        nn.Sequential(*list(source.children())[:-1]).load_state_dict(own)
    else:
        lost = source.load_state_dict({n: v for n, v in own.items() if not n.startswith("fc.")}, strict=False)
        assert lost == (["fc.weight", "fc.bias"], [])
    torch.manual_seed(4)
    model = build_model("resnet18", num_classes=3)
    source.fc.load_state_dict(model.fc.state_dict())
    load_weights(model, str(tmp_path / "theirs.pth"), "resnet18", new_head=True)
    assert torch.equal(logits(model), logits(source))
    assert capsys.readouterr().out == f"{tmp_path}/theirs.pth: names left out as no part of the network: {left}\n"
    with pytest.raises(UserError, match=r"2 names differ(?s:.*)--model.new_head true"):
        build_model("resnet18", num_classes=16, weights=str(tmp_path / "theirs.pth"))


def test_a_backbone_alone(tmp_path, capsys):
    """As Barlow Twins and VICReg publish it."""
    state = ours("resnet20").state_dict()
    torch.save({n: v for n, v in state.items() if not n.startswith("fc.")}, tmp_path / "w.pth")
    model = build_model("resnet20")
    model.fc.load_state_dict({n[3:]: v for n, v in state.items() if n.startswith("fc.")})
    load_weights(model, str(tmp_path / "w.pth"), "resnet20", new_head=True)
    assert torch.equal(logits(model), logits(ours("resnet20")))
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match=r"missing     fc.weight(?s:.*)--model.new_head true"):
        build_model("resnet20", weights=str(tmp_path / "w.pth"))


def test_a_new_head_is_trained_on_it(cli, tmp_path):
    content = moco()
    torch.save(content | {"args": ARGS}, tmp_path / "moco.pth")
    fit = f"fit {SMALL} --model.arch resnet18 --trainer.max_epochs 1 --trainer.limit_train_batches 1 --run_dir run"
    refused = cli(f"{fit} --model.weights moco.pth")
    assert refused.status == 2
    assert "or fit with --model.new_head true" in refused.err
    assert not (tmp_path / "run").exists()
    limits = "--model.frozen_stages 4 --trainer.limit_val_batches 1"
    done = cli(f"{fit} --model.weights moco.pth --model.new_head true {limits}")
    assert done.status == 0, done.err
    assert done.out.count("left out as no part of the network: momentum network (122), queue (2), projection") == 1
    assert len(summary(tmp_path / "run")["fingerprint"]["weights"]) == 16
    trained = checkpoint(tmp_path / "run")["state_dict"]
    assert trained["model.fc.weight"].shape[0] == 10
    for name in ("conv1.weight", "layer4.1.conv2.weight"):
        assert torch.equal(trained[f"model.{name}"], content["state_dict"][f"module.encoder_q.{name}"])
