"""Test protocols by the command line, picture by picture against a plain reference, on a network whose answers vary."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from reslightning.data.base import DataModule
from reslightning.data.imagenet import ImageNet
from reslightning.evaluation.protocols import PROTOCOLS
from reslightning.models import architectures
from reslightning.models.published import PUBLISHED
from reslightning.models.resnet import build_model
from tests import images, ranks
from tests.conftest import summary
from tests.evaluation import reference

CLASSES = tuple("abcdefgh")
EVERY = ("center", "flip", "ten-crop", "dense", "multi-scale")
# The network of 18 layers with few channels: what is tested is which pixels it sees, and how.
THIN = replace(architectures.ARCHITECTURES["resnet18"], widths=(4, 8, 16, 32))
LINE = "test --data ImageFolder --data.num_workers 0 --trainer.precision 64-true --wandb.mode disabled"


def folder(place: Path, contents: list[bytes], classes=CLASSES) -> Path:
    """Make val/CLASS/FILE of pictures, whose order by index is theirs."""
    for number, content in enumerate(contents):
        label = number * len(classes) // len(contents)
        path = place / "val" / classes[label] / f"{number:03}.JPEG"
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


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize(("workers", "tars"), [(0, True), (2, False)])
def test_neither_batches_nor_workers_nor_tars_count(cli, small, thin, tmp_path, monkeypatch, batch, workers, tars):
    """Each picture has its own probabilities, but for the last digits, also where shapes are mixed in a batch."""
    monkeypatch.setattr(DataModule, "evaluation_batch_size", lambda *_: batch)
    network, weights = thin
    root = images.tar(small, tmp_path / "tars" / "all.tar").parent if tars else small
    names = ("ten-crop", "dense")
    done = cli(
        f"{LINE} {weights} --data.root {root} --data.num_workers {workers} --protocol {','.join(names)} {noted('a')} "
        "--data.eval_resize 193 --data.eval_size 60"
    )
    assert done.status == 0, done.err
    for number, name in enumerate(names):
        close(answers(tmp_path / "a", number), expected(network, opened(small), name, sizes=(193, 60, "bilinear")))


def test_processes_share_the_pictures(small, tmp_path):
    """Shapes are grouped within each process; nine pictures are no even share."""
    torch.manual_seed(0)
    network = build_model("resnet18", num_classes=len(CLASSES)).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    shutil.copytree(small, tmp_path / "data")
    shutil.copy(small / "val" / "a" / "000.JPEG", tmp_path / "data" / "val" / "h" / "zzz.JPEG")
    line = f"{LINE} --model.arch resnet18 --model.weights {tmp_path}/w.pt --data.root {tmp_path}/data"
    line += f" --data.eval_resize 64 --data.eval_size 48 --protocol ten-crop {noted(tmp_path / 'a')}"
    assert "ImageFolder test, 9 images, which are its" in ranks.run(f"{line} {ranks.TWO}")
    sizes = (64, 48, "bilinear")
    close(answers(tmp_path / "a"), expected(network.double(), opened(tmp_path / "data"), "ten-crop", sizes=sizes))


@pytest.mark.parametrize("sizes", [(235, 224, "bicubic"), (232, 224, "bilinear")])
def test_sizes_and_filter_are_the_protocol_s(cli, small, thin, tmp_path, sizes):
    network, weights = thin
    done = cli(
        f"{LINE} {weights} --data.root {small} --data.eval_resize {sizes[0]} --data.eval_size {sizes[1]} "
        f"--data.eval_interpolation {sizes[2]} --protocol center {noted('a')}"
    )
    assert done.status == 0, done.err
    close(answers(tmp_path / "a"), expected(network, opened(small), "center", sizes=sizes))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_dense_of_224_pixels_is_the_centre_and_its_mirror_image(cli, small, thin, tmp_path, average):
    """One window of 7 x 7 is the whole last map: of a picture that is its own mirror image, dense is center, too."""
    _, weights = thin
    for number, name in enumerate(CLASSES):
        left = opened(small)[number].resize((112, 224))
        square = Image.new("RGB", (224, 224))
        square.paste(left, (0, 0))
        square.paste(ImageOps.mirror(left) if number % 2 else left, (112, 0))
        (tmp_path / "square" / "val" / name).mkdir(parents=True)
        square.save(tmp_path / "square" / "val" / name / f"{number}.png")
    done = cli(
        f"{LINE} {weights} --data.root {tmp_path}/square --data.eval_resize 224 --protocol center,flip,dense "
        f"--average {average} {noted('a')}"
    )
    assert done.status == 0, done.err
    center, flip, dense = (answers(tmp_path / "a", number) for number in range(3))
    assert (dense - flip).abs().max() < 1e-12
    assert (dense - center)[1::2].abs().max() < 1e-12
    assert (dense - center)[::2].abs().max() > 1e-3


def test_pictures_smaller_than_the_crop_are_made_larger(cli, small, thin, tmp_path):
    network, weights = thin
    for number, (name, shape) in enumerate(zip(CLASSES, [(1, 1), (1, 9), (9, 1), (40, 60), (2, 2)] * 2, strict=False)):
        (tmp_path / "tiny" / "val" / name).mkdir(parents=True)
        opened(small)[number].resize(shape).save(tmp_path / "tiny" / "val" / name / f"{number}.png")
    done = cli(f"{LINE} {weights} --data.root {tmp_path}/tiny --protocol ten-crop,dense {noted('a')}")
    assert done.status == 0, done.err
    pictures = [Image.open(path).convert("RGB") for path in sorted((tmp_path / "tiny").rglob("*.png"))]
    for number, name in enumerate(("ten-crop", "dense")):
        close(answers(tmp_path / "a", number), expected(network, pictures, name))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_picture_is_named(cli, small, thin, tmp_path, workers):
    shutil.copytree(small, tmp_path / "data")
    cut = tmp_path / "data" / "val" / "c" / "002.JPEG"
    cut.write_bytes(cut.read_bytes()[:2000])
    refused = cli(f"{LINE} {thin[1]} --data.root {tmp_path}/data --data.num_workers {workers} --protocol ten-crop")
    assert refused.status == 2
    assert f"corrupt image {cut}: image file is truncated" in refused.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on pictures of two classes that validates with flips, made when first asked for."""
    made: list[Path] = []

    def make(cli) -> Path:
        if not made:
            at = tmp_path_factory.mktemp("trained")
            root = images.tree(at / "data", classes=("cat", "dog"), train=8, val=4)
            line = f"fit --data ImageFolder --data.root {root} --data.batch_size 8 --data.num_workers 0 {SIZES}"
            line += f" --trainer.max_epochs 1 --wandb.mode disabled --model.test_flip true --run_dir {at}/run"
            assert cli(line).status == 0
            made.append(at / "run")
        return made[0]

    return make


SIZES = "--data.train_size 32 --data.eval_resize 40 --data.eval_size 32 --model.arch resnet8"


def test_flip_with_logits_is_what_training_validates_with(cli, trained):
    run = trained(cli)
    assert cli(f"test --run_dir {run}").status == 0
    file = run / "evaluations" / "test-center-40-32-flip.json"
    own = json.loads(file.read_text())
    last = summary(run)["metrics"]
    assert {name: own["metrics"][f"test/{name}"] for name in ("top1", "loss", "calibration")} == {
        name: last[f"val/{name}"] for name in ("top1", "loss", "calibration")
    }
    file.unlink()
    assert cli(f"test --run_dir {run} --protocol flip --average logits").status == 0
    assert json.loads(file.read_text()) == own
    assert own["average"] == "logits"


def test_every_evaluation_has_a_file_of_its_own(cli, trained):
    run = trained(cli)
    folder = run / "evaluations"
    before = {path.name for path in folder.glob("*.json")}
    for given in (
        "--protocol center,flip,ten-crop,ten-crop",
        "--protocol flip,ten-crop --average logits",
        "--protocol ten-crop --data.eval_interpolation bicubic",
        "--protocol ten-crop --data.eval_resize 48",
    ):
        done = cli(f"test --run_dir {run} {given}")
        assert done.status == 0, done.err
    found = {path.name: json.loads(path.read_text()) for path in folder.glob("test-*.json")}
    names = ["center-40-32", "flip-40-32", "ten-crop-40-32", "center-40-32-flip", "ten-crop-40-32-logits"]
    assert {f"test-{name}.json" for name in names} <= found.keys()
    differ = [name for name in found.keys() - before if "-other-" in name]
    assert len(differ) == 2
    assert {name.partition("-other-")[0] for name in differ} == {"test-ten-crop-40-32-bicubic", "test-ten-crop-48-32"}
    one = found["test-ten-crop-40-32.json"]
    assert one["sizes"] == {"eval_resize": 40, "eval_size": 32, "interpolation": "bilinear"}
    assert (one["average"], one["differences"]) == ("probabilities", [])
    assert found["test-center-40-32.json"]["average"] is None


def test_a_stopped_evaluation_leaves_what_was_there(cli, trained, tmp_path):
    run = trained(cli)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    strike = f"--trainer.callbacks+=tests.observers.Strike --trainer.callbacks.mark {tmp_path}/mark"
    where = "--trainer.callbacks.step 0 --trainer.callbacks.place val"
    stopped = cli(f"validate --run_dir {run} --protocol ten-crop {strike} {where}")
    assert stopped.status == 75
    assert (tmp_path / "mark").exists()
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("test --protocol ten-corp", "unknown protocol 'ten-corp'; did you mean 'ten-crop'?\nallowed: center, flip, "),
        ("test --protocol center,,flip", "unknown protocol ''"),
        ("test --average logits", "--average logits has no views to average\nGive --protocol with one of: flip, ten-"),
        ("test --protocol center --average logits", "--average logits has no views to average"),
        ("test --protocol flip --average logit", "logit"),
        ("fit --protocol flip", "--protocol means nothing to fit; it is an option of validate and test"),
        ("predict --average logits", "--average means nothing to predict; it is an option of validate and test"),
        (
            "test --protocol ten-crop",
            "--protocol ten-crop is of pictures of any size, and Thumbnails has images of 4",
        ),
        (
            "validate --protocol multi-scale",
            "--protocol multi-scale is of residual and plain networks of the ImageNet form, and resnet8 is none",
        ),
    ],
)
def test_what_there_is_not_is_refused(cli, finished, given, said):
    run = finished(cli)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    refused = cli(f"{given} --run_dir {run}")
    assert refused.status == 2
    assert said in refused.err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_networks_for_small_images_and_small_scales_have_no_dense_form(cli, trained, small, thin):
    refused = cli(f"test --run_dir {trained(cli)} --protocol center,dense")
    assert refused.status == 2
    assert "--protocol dense is of residual and plain networks of the ImageNet form, and resnet8 is none" in refused.err
    assert not list((trained(cli) / "evaluations").glob("*dense*"))
    refused = cli(f"{LINE} {thin[1]} --data.root {small} --data.eval_resize 192 --data.eval_size 192 --protocol dense")
    assert refused.status == 2
    assert "data.eval_resize=192 leaves --protocol dense no 7 x 7 places of the last map" in refused.err


def test_small_images_have_a_centre_and_its_mirror_image(cli, finished):
    run = finished(cli)
    assert cli(f"test --run_dir {run}").status == 0
    whole = (run / "evaluations" / "test-center.json").read_bytes()
    done = cli(f"test --run_dir {run} --protocol center,flip")
    assert done.status == 0, done.err
    assert (run / "evaluations" / "test-center.json").read_bytes() == whole
    record = json.loads((run / "evaluations" / "test-flip.json").read_text())
    assert (record["protocol"], record["average"]) == ("flip", "probabilities")


def test_published_protocols_are_those_that_there_are():
    usual, v2 = ImageNet(), ImageNet(eval_resize=232)
    timm = ImageNet(eval_resize=235, eval_interpolation="bicubic")
    made = {protocol().label(usual) for protocol in PROTOCOLS.values()}
    made |= {PROTOCOLS["center"]().label(data) for data in (v2, timm)}
    published = {row.protocol for row in PUBLISHED if row.dataset == "ImageNet"}
    published -= {"ensemble", "single-model"}
    assert published == {"center", "center-232-224", "center-235-224-bicubic", "ten-crop", "multi-scale"}
    assert published <= made
