"""Other people's files, made in their authors' layouts from networks of ours or of torchvision's."""

import argparse
import collections
import datetime
import pathlib
import re
import types
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from reslightning.errors import UserError
from reslightning.models.resnet import build_model
from reslightning.models.weights import load_weights
from tests.conftest import SMALL, checkpoint, summary

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def varied(model):
    """Return a network with statistics and scales that are no one's defaults, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                value.normal_(0, 0.1, generator=generator)
            elif value.dim() == 1 and value.is_floating_point():
                value.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def ours(arch, **options):
    torch.manual_seed(2)
    return varied(build_model(arch, **options))


def logits(model):
    with torch.no_grad():
        found = model.eval()(IMAGES)
    assert found.std(0).mean() > 0.01  # what any weights give would be no answer
    return found


def under(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def renamed(state, **names):
    for ours, theirs in names.items():
        state = {re.sub(rf"\b{ours}\b", theirs, name): value for name, value in state.items()}
    return state


ARGS = argparse.Namespace(
    lr=0.1,
    data=pathlib.PurePosixPath("data"),
    log=pathlib.Path("log"),
    nested=types.SimpleNamespace(when=datetime.datetime(2024, 1, 1), took=datetime.timedelta(1)),
    best=np.float64(93.5),
    rows=np.arange(3),
    counts=collections.defaultdict(list, a=[1]),
    last=collections.deque([1, 2], maxlen=3),
    kept=collections.OrderedDict(a=1),
)
LAYOUTS = {
    "timm": (
        "resnet18",
        lambda state: {
            **{"epoch": 3, "arch": "resnet18", "state_dict": under("_orig_mod.", state), "args": ARGS, "version": 2},
            **{"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []}},
            "metric": np.float32(70.1),
        },
    ),
    "torchvision's references": (
        "resnet18",
        lambda state: {"model": state, "optimizer": {}, "epoch": 89, "args": ARGS},
    ),
    "chenyaofo": ("resnet20 B", lambda state: state),
    "akamaster A": (
        "resnet20",
        lambda state: {"state_dict": under("module.", renamed(state, fc="linear")), "best_prec1": torch.tensor(91.7)},
    ),
    "akamaster B": (
        "resnet20 B",
        lambda state: {
            "state_dict": under("module.", renamed(state, fc="linear", downsample="shortcut")),
            "best_prec1": 91.7,
        },
    ),
    "kuangliu": (
        "resnet50_cifar",
        lambda state: {
            "net": under("module.", renamed(state, fc="linear", downsample="shortcut")),
            "acc": 95.4,
            "epoch": 199,
        },
    ),
    "a prefix of any name": ("resnet20", lambda state: under("whatever.it_is.", state)),
    "a nesting of any name": ("resnet20", lambda state: {"weights": state, "step": 3}),
    "an average alone": ("resnet20", lambda state: {"ema": state}),
    "two nestings": ("resnet20", lambda state: {"model": {"state_dict": state}}),
    "parameters": (
        "resnet20",
        lambda state: {n: nn.Parameter(v) if v.is_floating_point() else v for n, v in state.items()},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_others_gives_its_networks_logits(layout, tmp_path, capsys):
    name, wrap = LAYOUTS[layout]
    arch, _, shortcut = name.partition(" ")
    source = ours(arch, shortcut=shortcut or None)
    torch.save(wrap(source.state_dict()), tmp_path / "theirs.pth")
    built = build_model(arch, shortcut=shortcut or None, weights=str(tmp_path / "theirs.pth"))
    assert torch.equal(logits(built), logits(source))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("twice", ["module.fc.bias", "linear.bias"])
def test_what_is_there_twice_is_refused(twice, tmp_path):
    torch.save(ours("resnet20").state_dict() | {twice: torch.ones(10)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"fc.bias twice, once as {twice}"):
        build_model("resnet20", weights=str(tmp_path / "w.pth"))


def test_a_fingerprint_is_of_the_network_s_tensors(tmp_path):
    """Files that runs have started from keep theirs, by which those runs are known."""
    model = build_model("resnet8")
    for value in model.state_dict().values():
        value.fill_(1)
    for layout in (lambda state: {"state_dict": under("module.", state)}, lambda state: under("net.", state)):
        torch.save(layout(model.state_dict()), tmp_path / "w.pth")
        assert load_weights(model, str(tmp_path / "w.pth"), "resnet8") == "9f22a6981302d720"


def test_safetensors_of_others(tmp_path):
    source = ours("resnet20")
    save_file(under("net.", renamed(source.state_dict(), fc="linear")), tmp_path / "model.safetensors")
    assert torch.equal(logits(build_model("resnet20", weights=str(tmp_path / "model.safetensors"))), logits(source))


# -- self-supervised -----------------------------------------------------------------------------


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


# -- several weights in a file -------------------------------------------------------------------


@pytest.fixture
def both(tmp_path):
    """A file with weights and their average, and the two networks."""
    raw, averaged = ours("resnet20"), varied(build_model("resnet20"))
    average = {"n_averaged": torch.tensor(5), **under("module.", averaged.state_dict())}
    torch.save({"model": raw.state_dict(), "model_ema": average, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    return tmp_path / "w.pth", raw, averaged


def test_averaged_weights_are_chosen_by_their_key(both, capsys):
    file, raw, averaged = both
    assert torch.equal(logits(build_model("resnet20", weights=str(file))), logits(raw))
    assert capsys.readouterr().out == f"{file}: model is taken; there is also {file}#model_ema\n"
    assert torch.equal(logits(build_model("resnet20", weights=f"{file}#model_ema")), logits(averaged))
    out = capsys.readouterr().out
    assert out.startswith(f"{file}: model_ema is taken; there is also {file}#model\n")
    assert out.endswith("names left out as no part of the network: count of averages (1)\n")
    for wrong in ("model_emma", "optimizer", ""):
        with pytest.raises(UserError, match=rf"no weights under '{wrong}'(?s:.*)w.pth#model, \S*w.pth#model_ema$"):
            build_model("resnet20", weights=f"{file}#{wrong}")


def test_a_name_with_the_sign_of_a_key(both, tmp_path):
    file, raw, averaged = both
    odd = file.rename(tmp_path / "w#model_ema")
    assert torch.equal(logits(build_model("resnet20", weights=str(odd))), logits(raw))
    assert torch.equal(logits(build_model("resnet20", weights=f"{odd}#model_ema")), logits(averaged))
    with pytest.raises(UserError, match=f"no weights at {tmp_path}/nothing\n"):
        build_model("resnet20", weights=f"{tmp_path}/nothing#model")


def test_a_file_that_holds_itself(tmp_path):
    content = {"conv1.weight": torch.ones(2)}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="names differ"):
        build_model("resnet20", weights=str(tmp_path / "w.pth"))


def test_weights_of_any_name_come_before_their_average(both, capsys):
    file, raw, _ = both
    content = torch.load(file)
    torch.save({"ema": content["model_ema"], "weights": content["model"]}, file)
    assert torch.equal(logits(build_model("resnet20", weights=str(file))), logits(raw))
    assert capsys.readouterr().out == f"{file}: weights is taken; there is also {file}#ema\n"


def test_several_weights_without_a_usual_name(tmp_path):
    """As DINO keeps them."""
    state = ours("resnet20").state_dict()
    backbone = {n: v for n, v in under("backbone.", state).items() if ".fc." not in n}
    head = {"head.mlp.0.weight": torch.ones(2, 2), "head.last_layer.weight_g": torch.ones(2, 1)}
    content = {"student": under("module.", backbone | head), "teacher": backbone | head, "args": ARGS}
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w.pth#student or \S*w.pth#teacher"):
        build_model("resnet20", weights=str(tmp_path / "w.pth"))
    model = build_model("resnet20")
    load_weights(model, f"{tmp_path}/w.pth#teacher", "resnet20", new_head=True)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items() if "fc." not in name)


def test_the_command_line(cli, both, tmp_path):
    network = "--model.arch resnet20 --data tests.small.Thumbnails --data.batch_size 256"
    line = f"validate {network} --model.weights"
    done = cli(f"{line} {both[0]}#model_ema")
    assert done.status == 0, done.err
    assert "model_ema is taken; there is also" in done.out
    assert f"weights: {both[0]}#model_ema" in done.out
    wrong = cli(f"{line} {both[0]}#ema")
    assert wrong.status == 2
    assert f"allowed: {both[0]}#model, {both[0]}#model_ema" in wrong.err
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
