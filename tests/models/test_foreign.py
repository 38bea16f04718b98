"""Other people's files, made in their authors' layouts from networks of ours."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reslightning.errors import UserError
from reslightning.models.resnet import build_model
from reslightning.models.weights import load_weights
from tests.models.theirs import ARGS, logits, ours, renamed, under, varied

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


@pytest.fixture
def both(tmp_path):
    """A file with weights and their average, and the two networks."""
    raw, averaged = ours("resnet20"), varied(build_model("resnet20"))
    average = {"n_averaged": torch.tensor(5), **under("module.", averaged.state_dict())}
    torch.save({"model": raw.state_dict(), "model_ema": average, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    return tmp_path / "w.pth", raw, averaged


def test_weights_within_an_average_s_module(tmp_path):
    source = ours("resnet20")
    torch.save({"model_ema": {"module": source.state_dict(), "decay": 0.9}, "epoch": 3}, tmp_path / "w.pth")
    for name in ("w.pth", "w.pth#model_ema"):
        assert torch.equal(logits(build_model("resnet20", weights=str(tmp_path / name))), logits(source))


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool])
def test_whole_numbers_are_no_weights(kind, tmp_path):
    state = ours("resnet20").state_dict()
    torch.save(state | {"conv1.weight": state["conv1.weight"].to(kind)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"no floats: +conv1.weight, but {str(kind)[6:]}, quantised perhaps"):
        build_model("resnet20", weights=str(tmp_path / "w.pth"))


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


def test_the_command_line(cli, both):
    network = "--model.arch resnet20 --data tests.small.Thumbnails --data.batch_size 256"
    line = f"validate {network} --model.weights"
    done = cli(f"{line} {both[0]}#model_ema")
    assert done.status == 0, done.err
    assert "model_ema is taken; there is also" in done.out
    assert f"weights: {both[0]}#model_ema" in done.out
    wrong = cli(f"{line} {both[0]}#ema")
    assert wrong.status == 2
    assert f"allowed: {both[0]}#model, {both[0]}#model_ema" in wrong.err
