"""Test protocols by the command line, picture by picture against a plain reference, on a network whose answers vary."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from reslightning.models import architectures
from reslightning.models.resnet import build_model
from tests.evaluation import reference

CLASSES = tuple("abcdefgh")
EVERY = ("center", "flip", "ten-crop", "dense", "multi-scale")
# The network of 18 layers with few channels: what is tested is which pixels it sees, and how.
THIN = replace(architectures.ARCHITECTURES["resnet18"], widths=(4, 8, 16, 32))
LINE = "test --data ImageFolder --data.num_workers 0 --trainer.precision 64-true --wandb.mode disabled"


@pytest.fixture(scope="session")
def pictures(sample) -> list[bytes]:
    """64 of ImageNet's own files, none of them square."""
    found = [content for content in sample if len(set(Image.open(io.BytesIO(content)).size)) == 2]
    return found[::3][:64]


def folder(place: Path, contents: list[bytes]) -> Path:
    """Make val/CLASS/FILE of pictures, whose order by index is theirs."""
    for number, content in enumerate(contents):
        label = number * len(CLASSES) // len(contents)
        path = place / "val" / CLASSES[label] / f"{number:03}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


@pytest.fixture(scope="module")
def small(pictures, tmp_path_factory):
    """Eight pictures of a class each as a tree."""
    return folder(tmp_path_factory.mktemp("pictures") / "tree", pictures[:8])


@pytest.fixture
def thin(small, monkeypatch, tmp_path):
    """A network whose final layer tells pictures apart, and where its weights are."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "thin", THIN)
    torch.manual_seed(0)
    network = build_model("thin", num_classes=len(CLASSES)).double().eval()
    seen = [reference.views(one, "center", 256, 224, Image.Resampling.BILINEAR)[0] for one in opened(small)]
    network.fc, final = torch.nn.Identity(), network.fc
    with torch.no_grad():
        features = torch.stack([reference.logits(network, view, "center") for view in seen])
        wanted = 5 * torch.eye(len(CLASSES), dtype=torch.float64)
        final.weight.copy_((torch.linalg.pinv(features - features.mean(0), rtol=0.01) @ wanted).T)
        final.bias.copy_(-final.weight @ features.mean(0))
    network.fc = final
    torch.save(network.float().state_dict(), tmp_path / "thin.pt")
    return network.double(), f"--model.arch thin --model.weights {tmp_path}/thin.pt"


def opened(root: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(root.rglob("*.JPEG"))]


def answers(file: Path, evaluation: int = 0) -> torch.Tensor:
    """Return the probabilities [N, classes] of all images, each of which was seen once, in their order."""
    parts = [torch.load(path) for path in sorted(file.parent.glob(f"{file.name}.{evaluation}.*"))]
    index = torch.cat([part["index"] for part in parts])
    assert index.sort().values.tolist() == list(range(len(index)))
    return torch.cat([part["logits"] for part in parts])[index.argsort()].double().softmax(1)


def expected(network, pictures, name: str, average="probabilities", sizes=(256, 224, "bilinear")) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([reference.probabilities(network, one, name, average, *sizes) for one in pictures])


def noted(file: Path) -> str:
    return f"--trainer.callbacks+=tests.observers.Answers --trainer.callbacks.file {file}"


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-6


@pytest.mark.parametrize(("names", "average"), [(EVERY[:4], "probabilities"), (EVERY[1:3], "logits")])
def test_every_protocol_equals_the_reference(cli, small, thin, tmp_path, names, average):
    network, weights = thin
    done = cli(f"{LINE} {weights} --data.root {small} --protocol {','.join(names)} --average {average} {noted('a')}")
    assert done.status == 0, done.err
    for number, name in enumerate(names):
        found = answers(tmp_path / "a", number)
        assert len(found.argmax(1).unique()) >= 4, name
        close(found, expected(network, opened(small), name, average))


def test_five_scales_equal_the_reference(cli, small, thin, tmp_path):
    """The first batch, which is of two pictures of different shapes."""
    network, weights = thin
    done = cli(
        f"{LINE} {weights} --data.root {small} --protocol multi-scale {noted('a')} --data.batch_size 32 "
        "--trainer.limit_test_batches 1"
    )
    assert done.status == 0, done.err
    close(answers(tmp_path / "a"), expected(network, opened(small)[:2], "multi-scale"))
