"""Networks of torchvision's by the command line: evaluated as the others, and trained by no command."""

import csv
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models._api import WeightsEnum

from tests import images
from tests.evaluation import reference
from tests.evaluation.test_protocols import LINE, answers, noted
from tests.models.test_borrowed import state_of

REFUSED = (
    "is torchvision's, and is not trained here; allowed: validate, test, predict, models and build_model\nTo train"
)
WEIGHTS = ("torchvision:IMAGENET1K_V1", "torchvision:googlenet.IMAGENET1K_V1")


@pytest.fixture
def downloaded(monkeypatch):
    """torchvision's GoogLeNet with the weights that are in place of a download."""
    state = state_of("googlenet", aux_logits=True)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: dict(state))
    return torchvision.models.googlenet(weights="IMAGENET1K_V1").double().eval()


@pytest.mark.parametrize(("weights", "data"), [(WEIGHTS[0], "ImageFolder"), (WEIGHTS[1], "ImageNet")])
def test_protocols_and_predictions_are_those_of_torchvision_s_network(cli, downloaded, tmp_path, weights, data):
    """Also where the data set's own recipe says which version of a residual network is meant."""
    root = images.tree(tmp_path / "data", train=1, val=1)
    where = f"--data {data} --data.root {root} --data.eval_resize 40 --data.eval_size 32"
    network = f"--model.arch googlenet --model.weights {weights}"
    names = ("center", "flip", "ten-crop")
    done = cli(f"{LINE} {where} {network} --protocol {','.join(names)} {noted('a')}")
    assert done.status == 0, done.err
    assert ("classes: 4 of the 1000 that the weights know" in done.out) == (data == "ImageFolder")
    pictures = [
        Image.open(path).convert("RGB") for path in sorted((root / "val").rglob("*.JPEG"), key=lambda path: path.name)
    ]
    found = {}
    for number, name in enumerate(names):
        seen = [reference.views(one, name, 40, 32, Image.Resampling.BILINEAR) for one in pictures]
        if name == "flip":
            seen = [reference.views(one, "center", 40, 32, Image.Resampling.BILINEAR) for one in pictures]
            seen = [[view, view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)] for (view,) in seen]
        with torch.no_grad():
            wanted = torch.stack([downloaded(torch.stack([pixels(v) for v in one])).softmax(1).mean(0) for one in seen])
        assert len(wanted.argmax(1).unique()) > 1
        torch.testing.assert_close(answers(tmp_path / "a", number), wanted, rtol=0, atol=1e-6)
        found[name] = wanted
    done = cli(f"predict {LINE.removeprefix('test ')} {where} {network} --output p.csv")
    assert done.status == 0, done.err
    with Path("p.csv").open() as file:
        rows = [[float(cell) for cell in row[3:-1]] for row in list(csv.reader(file))[1:]]
    torch.testing.assert_close(torch.tensor(rows).double(), found["center"], rtol=0, atol=1e-6)


def pixels(view: Image.Image) -> torch.Tensor:
    return torch.tensor((reference.np.asarray(view, "f8") / 255 - reference.MEAN) / reference.STD).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["dense", "multi-scale"])
def test_there_is_no_dense_form_and_nothing_is_downloaded(cli, monkeypatch, tmp_path, name):
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: pytest.fail("downloaded"))
    root = images.tree(tmp_path / "data", val=1)
    refused = cli(f"{LINE} --data.root {root} --model.arch vgg16 --model.weights {WEIGHTS[0]} --protocol center,{name}")
    assert refused.status == 2
    assert f"--protocol {name} is of residual and plain networks of the ImageNet form, and vgg16 is none" in refused.err


@pytest.mark.parametrize(
    "line",
    [
        "fit --model.arch vgg16",
        "fit --data ImageFolder --data.root data --model.arch googlenet --model.new_head true "
        "--model.weights torchvision:IMAGENET1K_V1",
        "fit -c mine.yaml",
        "submit --dry_run -- fit --model.arch vgg19_bn",
        "submit --dry_run --grid model.arch=resnet20,vgg16 -- fit",
        "submit --dry_run -- fit -c mine.yaml",
        "bench train --root data --arch vgg16",
    ],
)
def test_no_command_trains_it(cli, tmp_path, line):
    (tmp_path / "mine.yaml").write_text("model: {arch: vgg16}\n")
    refused = cli(line)
    assert refused.status == 2
    assert REFUSED in refused.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--model.shortcut B", "googlenet has no shortcuts"),
        ("--model.version v1", "googlenet has no versions"),
        ("--data ImageNet --model.version v1", "googlenet has no versions"),
        ("--model.zero_init_residual true", "googlenet has none"),
        ("--data.eval_size 14", "googlenet takes images of 15 pixels or more a side; given: 14"),
    ],
)
def test_what_it_has_not_is_refused(cli, downloaded, tmp_path, given, said):
    root = images.tree(tmp_path / "data", train=1, val=1)
    refused = cli(f"{LINE} --data.root {root} --model.arch googlenet --model.weights {WEIGHTS[0]} {given}")
    assert refused.status == 2
    assert said in refused.err
