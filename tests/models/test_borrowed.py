"""Networks of torchvision's: what they cost, torchvision's own logits from the same weights, and what they have not."""

import pytest
import torch
import torchvision
from lightning.pytorch import Trainer
from torch import nn
from torchvision.models._api import WeightsEnum

from reslightning.errors import UserError
from reslightning.models.architectures import canonical, cost, get_architecture
from reslightning.models.borrowed import BORROWED
from reslightning.models.resnet import build_model
from reslightning.models.weights import torchvision_weights
from reslightning.train.classifier import ImageClassifier
from tests.models.test_architectures import measured


@pytest.mark.parametrize("classes", [None, 7])
@pytest.mark.parametrize("name", BORROWED)
def test_the_table_is_what_torchvision_builds(name, classes):
    with torch.device("meta"):
        model = build_model(name, num_classes=classes)
    weighted = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert weighted[-1].out_features == (classes or 1000)
    assert measured(model, 224) == cost(name, num_classes=classes)
    # GoogLeNet's longest path has two convolutions in each of nine modules, which have six, and four other layers.
    layers = len(weighted) - 4 * 9 if name == "googlenet" else len(weighted)
    assert layers == get_architecture(name).layers
    least = get_architecture(name).least
    model(torch.zeros(1, 3, least, least, device="meta"))
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 3, least - 1, least - 1, device="meta"))


def state_of(name: str, **options) -> dict[str, torch.Tensor]:
    """Return weights as torchvision's files have them, with the statistics of some images, so that answers vary."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, init_weights=False, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1
    with torch.no_grad():
        model(torch.randn(8, 3, 64, 64))
    return model.state_dict()


@pytest.mark.parametrize("name", ["googlenet", pytest.param("vgg16_bn", marks=pytest.mark.slow)])
def test_torchvision_s_weights_give_torchvision_s_logits(name, monkeypatch, tmp_path):
    state = state_of(name, **({"aux_logits": True} if name == "googlenet" else {}))
    assert any(key.startswith("aux1.") for key in state) == (name == "googlenet")
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: dict(state))
    theirs = torchvision.models.get_model(name, weights="IMAGENET1K_V1").eval()
    torch.save(state, tmp_path / "weights.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs(images)
        for weights in ("torchvision:IMAGENET1K_V1", f"torchvision:{name}.IMAGENET1K_V1", f"{tmp_path}/weights.pth"):
            ours = build_model(name, weights=weights).eval()
            assert torch.equal(ours(images), wanted)
    assert wanted.std(0).mean() > 0.01
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"shortcut": "B"}, "googlenet has no shortcuts: leave out shortcut 'B'"),
        ({"version": "v1.5"}, "googlenet has no versions: leave out version 'v1.5'"),
        ({"zero_init_residual": True}, "zero_init_residual needs shortcuts, .*, and googlenet has none"),
        (
            {"weights": "torchvision:IMAGENET1K_V2"},
            "no weights 'IMAGENET1K_V2' for googlenet.*\nallowed: IMAGENET1K_V1",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        build_model("googlenet", **arguments)


def test_weights_of_other_classes_are_refused_and_no_new_head_is_offered(tmp_path):
    torch.save(build_model("googlenet", num_classes=10).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"misshapen   fc.weight: the network has \[7, 1024\]") as error:
        build_model("googlenet", num_classes=7, weights=str(tmp_path / "w.pt"))
    assert str(error.value).endswith("number of classes they were trained with.")


def test_names_of_weights():
    assert torchvision_weights("torchvision:vgg16.IMAGENET1K_V1").name == "IMAGENET1K_V1"
    assert torchvision_weights("torchvision:vgg19_bn").url.endswith("vgg19_bn-c79401a0.pth")
    with pytest.raises(UserError, match="no weights 'IMAGENET1K_FEATURES' for vgg16\nallowed: IMAGENET1K_V1, DEFAULT"):
        torchvision_weights("torchvision:vgg16.IMAGENET1K_FEATURES")
    with pytest.raises(UserError, match="no weights for 'vgg11'"):
        torchvision_weights("torchvision:vgg11")


def test_one_is_no_other_and_is_counted_at_its_size():
    assert canonical("vgg16", None, None) == canonical("vgg16", None, None) != canonical("vgg16_bn", None, None)
    assert cost("vgg16", image_size=224) == cost("vgg16")
    with pytest.raises(UserError, match="vgg16 is counted at 224 pixels alone; given: image_size=64"):
        cost("vgg16", image_size=64)


REFUSED = (
    "googlenet is torchvision's, and is not trained here; allowed: validate, test, predict, models and build_model"
)


@pytest.mark.parametrize("given", [{"frozen_stages": 1}, {"new_head": True, "weights": "torchvision:IMAGENET1K_V1"}])
def test_what_only_a_training_does_is_refused(given):
    with pytest.raises(UserError, match=REFUSED):
        ImageClassifier("googlenet", **given)


def test_no_trainer_trains_it():
    batch = [(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long))]
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(UserError, match=REFUSED):
        trainer.fit(ImageClassifier("googlenet"), batch, batch)


def test_torchvision_s_weights_are_of_no_other_version(monkeypatch):
    state = torchvision.models.resnet50().state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: dict(state))
    build_model("resnet50", weights="torchvision:IMAGENET1K_V1")
    with pytest.raises(UserError, match=r"are of resnet50, shortcut B, v1.5, and were asked .* v1\n.*: B, v1.5"):
        build_model("resnet50", weights="torchvision:IMAGENET1K_V1", version="v1")
