"""Networks leave the package: what an empty folder has of them answers as they do, and says how."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors import safe_open

from reslightning.errors import Stopped, UserError
from reslightning.evaluation import export as exporting
from reslightning.evaluation.formats import FORMATS
from reslightning.files import exclusive
from reslightning.models.checkpoint import read_checkpoint, write_safetensors
from reslightning.models.resnet import build_model
from tests.conftest import checkpoint, summary
from tests.models.test_checkpoint import Payload

ALL = ",".join(FORMATS)
NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.25]}


def lively(arch, classes, **options):
    """Return a network whose scales, statistics and answers vary."""
    torch.manual_seed(0)
    network = build_model(arch, num_classes=classes, **options)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    with torch.no_grad():
        for _ in range(10):
            network(images(16, 32, seed=1))
        logits = network.eval()(images(64, 32, seed=2))
        network.fc.weight /= logits.std(0)[:, None]
        network.fc.bias.copy_((network.fc.bias - logits.mean(0)) / logits.std(0))
    return network


def images(count, size, seed=0):
    """Return images [count, 3, size, size] in [0, 1], each of a colour and a contrast of its own."""
    random = torch.Generator().manual_seed(seed)
    colour, contrast = (torch.rand(count, channels, 1, 1, generator=random) for channels in (3, 1))
    return (colour + contrast * (torch.rand(count, 3, size, size, generator=random) - 0.5)).clamp(0, 1)


def made(arch, classes=6, size=32, **options):
    """Write a checkpoint as a training's, c.ckpt, and return its network."""
    network = lively(arch, classes, **options)
    torch.save(
        {
            "state_dict": {f"model.{name}": value for name, value in network.state_dict().items()},
            "hyper_parameters": {"arch": arch, "num_classes": classes, "shortcut": None, "version": None} | options,
            "class_names": [f"class {number}" for number in range(classes)],
            "normalisation": NORMALISATION,
            "sizes": {"image_size": size, "eval_resize": 40, "eval_size": size, "interpolation": "bilinear"},
        },
        "c.ckpt",
    )
    return network


def programs(folder):
    """Return a README's programs by the files that they are for."""
    return dict(re.findall(r"### (\S+)\n.*?```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL))


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("resnet8", {}),
        ("resnet8", {"version": "v2"}),
        pytest.param("plain20", {}, marks=pytest.mark.slow),
        pytest.param("resnet50", {}, marks=pytest.mark.slow),
    ],
)
def test_the_readme_s_three_lines_answer_as_the_network(cli, tmp_path, monkeypatch, arch, options):
    network = made(arch, **options)
    said = cli(f"export c.ckpt --to out --format {ALL}")
    assert (said.status, said.err) == (0, "")
    Path("c.ckpt").unlink()
    monkeypatch.chdir("out")
    assert sorted(programs(Path())) == sorted(row.file for row in FORMATS.values())
    batch = images(20, 32)
    with torch.no_grad():
        expected = network(batch)
        assert len(expected.argmax(1).unique()) > 1
        assert expected.std(0).min() > 0.01
        for file, program in programs(Path()).items():
            names = {}
            assert len(program.splitlines()) == 3
            exec(compile(program, file, "exec"), names)
            for some in (batch, batch[:1]):
                given = some.numpy() if file.endswith(".onnx") else some
                found = torch.as_tensor(names["network"](given))
                assert torch.allclose(found, expected[: len(some)], atol=1e-4), file


@pytest.mark.parametrize(
    ("arch", "call"), [("resnet18", "resnet18(num_classes=6)"), ("resnet50", "resnet50(num_classes=6)")]
)
def test_torchvision_takes_state_dicts_unchanged_as_networks_and_as_a_detector_s_backbone(cli, arch, call):
    network = made(arch)
    assert cli("export c.ckpt --to out --format torch").status == 0
    assert f"torchvision.models.{call}" in programs(Path("out"))["model.pth"]
    state = torch.load("out/model.pth", weights_only=True)
    theirs = torchvision.models.get_model(arch, num_classes=6)
    theirs.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(theirs.eval()(images(5, 64)), network(images(5, 64)))
    if arch == "resnet50":
        detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        body = detector.backbone.body
    else:
        body = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(backbone_name=arch, weights=None).body
    keys = body.load_state_dict(state, strict=False)
    assert (keys.missing_keys, set(keys.unexpected_keys)) == ([], {"fc.weight", "fc.bias"})


@pytest.mark.parametrize("network", [{"arch": "resnet50", "version": "v1"}, {"arch": "resnet18", "shortcut": "A"}])
def test_what_torchvision_has_not_is_not_said_to_be_its(cli, network):
    made(**network)
    assert cli("export c.ckpt --to out --format torch").status == 0
    program = programs(Path("out"))["model.pth"]
    assert "torchvision" not in program
    assert all(f'"{value}"' in program for value in network.values())


def test_graphs_normalise_and_answer_with_probabilities_if_asked(cli):
    network = made("resnet8", classes=4, size=16)
    done = cli("export c.ckpt --to out --format onnx,torch.export --normalise --softmax --json")
    report = json.loads(done.out)
    assert [row["of"] for row in report["files"]] == ["probabilities"] * 2
    batch = images(7, 16)
    mean, std = (torch.tensor(value)[:, None, None] for value in NORMALISATION.values())
    with torch.no_grad():
        expected = network((batch - mean) / std).softmax(1)
        assert torch.allclose(torch.export.load("out/model.pt2").module()(batch), expected, atol=1e-5)
    import onnxruntime

    session = onnxruntime.InferenceSession("out/model.onnx")
    assert np.allclose(session.run(None, {"images": batch.numpy()})[0], expected, atol=1e-5)
    assert (
        json.loads(session.get_modelmeta().custom_metadata_map["reslightning"])["class_names"] == report["class_names"]
    )
    for file in Path("out").iterdir():
        assert str(Path(__file__).parents[2]).encode() not in file.read_bytes(), (
            "where the code lay is nobody's business"
        )


def test_low_precision_compiled_and_channels_last_runs_are_exported_as_float32(cli):
    made("resnet8")
    content = torch.load("c.ckpt", weights_only=True)
    content["hyper_parameters"] |= {"compile": True, "channels_last": True}
    content["state_dict"] = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in content["state_dict"].items()
    }
    torch.save(content, "c.ckpt")
    assert cli("export c.ckpt --to out --format torch,safetensors").status == 0
    for state in (
        torch.load("out/model.pth", weights_only=True),
        read_checkpoint(Path("out/model.safetensors"))["state_dict"],
    ):
        assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


@pytest.mark.filterwarnings("default::reslightning.errors.Assumed")
def test_a_network_without_normalisation_stays_one(cli):
    network = build_model("resnet8", num_classes=6, norm="none")
    torch.nn.init.normal_(network.fc.weight)  # which starts at zero
    said = {"arch": "resnet8", "num_classes": 6, "shortcut": None, "version": None, "norm": "none"}
    torch.save({"state_dict": network.state_dict(), "hyper_parameters": said}, "c.ckpt")
    done = cli("export c.ckpt --to out --format safetensors,torch --json")
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["hyper_parameters"]["norm"] == "none"
    assert [row["difference"] for row in report["files"]] == [0, 0]
    assert 'norm="none"' in programs(Path("out"))["model.pth"]
    assert "resnet8, shortcut A, version v1, norm none" in Path("out/README.md").read_text()
    again = build_model("resnet8", num_classes=6, norm="none", weights="out/model.pth")
    assert again.state_dict().keys() == network.state_dict().keys()


@pytest.mark.slow
def test_borrowed_networks_are_exported_if_their_weights_are_given(cli):
    torch.save(lively("googlenet", 5).state_dict(), "g.pth")
    done = cli("export g.pth --model.arch googlenet --to out --format torch")
    assert (done.status, done.err) == (0, "")
    assert "googlenet(num_classes=5, aux_logits=False, transform_input=True" in programs(Path("out"))["model.pth"]


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["", "--model.ema_decay 0.9 --data.val_split 300"])
def test_a_run_s_file_is_evaluated_as_the_run(cli, finished, tmp_path, extra):
    run = shutil.copytree(finished(cli, extra), tmp_path / "run")
    for other in (run / "evaluations").glob("*.json"):  # another test's
        other.unlink()
    assert cli(f"predict --run_dir {run} --output {tmp_path}/run.csv").status == 0
    done = cli(f"export {run} --to out --json")
    report = json.loads(done.out)
    assert report["pictures"] == "20 test images of Thumbnails"
    assert report["files"][0]["difference"] == 0
    (result,) = report["trained"]["results"]
    held_out = "val_split" in extra
    assert result["part"] == ("train" if held_out else "test")
    assert result["images"] == (300 if held_out else 359)
    assert result["top1"] == summary(run)["best" if held_out else "metrics"]["val/top1"]
    options = f"--data tests.small.Thumbnails --model.arch resnet8 --model.weights {tmp_path}/out/model.safetensors"
    assert cli(f"predict {options} --output {tmp_path}/file.csv").status == 0
    assert Path("file.csv").read_text() == Path("run.csv").read_text()
    assert cli(f"test {options}").status == 0
    refused = cli(f"test {options} --data.mean [0.5,0.5,0.5]")
    assert (refused.status, "was trained with mean" in refused.err) == (2, True)
    refused = cli(f"test {options} --model.version v2")
    assert (refused.status, "do not fit" in refused.err or "are of resnet8" in refused.err) == (2, True)


def test_metadata_alone_says_what_is_needed_to_predict(cli, finished):
    run = finished(cli)
    assert cli(f"test --run_dir {run} --protocol flip").status == 0
    assert cli(f"export {run} --to out").status == 0
    with safe_open("out/model.safetensors", framework="np") as file:
        (text,) = file.metadata().values()
    facts, content = json.loads(text), read_checkpoint(Path("out/model.safetensors"))
    assert facts["hyper_parameters"] == {"arch": "resnet8", "num_classes": 10, "shortcut": "A", "version": "v1"}
    assert facts["class_names"] == facts["class_ids"] == list("0123456789")
    there = checkpoint(run)
    assert {name: content[name] for name in ("normalisation", "sizes", "class_names")} == {
        name: there[name] for name in ("normalisation", "sizes", "class_names")
    }
    assert content["exif_orientation"] is False
    assert content["trained"]["dataset"] == "Thumbnails"
    assert content["trained"]["licence"].startswith("CC BY 4.0")
    assert [row["protocol"] for row in content["trained"]["results"]] == ["center", "flip"]
    again = json.loads(cli("export out/model.safetensors --to again --json").out)
    assert again["trained"] == content["trained"]
    text = Path("out/README.md").read_text()
    error = f"{100 * (1 - summary(run)['metrics']['val/top1']):.2f} %"
    assert re.search(rf"359 test images +\| center +\| {error}", text)
    assert "shortcut A, version v1" in text


def test_without_its_data_a_run_is_compared_on_noise_and_that_is_said(cli, finished, tmp_path):
    run = shutil.copytree(finished(cli), tmp_path / "run")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("tests.small.Thumbnails", "tests.gone.Thumbnails"))
    done = cli(f"export {run} --to out")
    assert (done.status, "20 images of noise, for want of the run's test images" in done.out) == (0, True)


def test_an_export_is_replaced_whole_by_its_run_s_next_one_alone(cli, finished, tmp_path):
    run, other = finished(cli), finished(cli, "--seed_everything 1")
    assert cli(f"export {run} --to out --format torch,safetensors").status == 0
    assert cli(f"export {run} --to out --format torch.export").status == 0
    files = {"README.md", "export.json", "model.pt2"}
    assert {path.name for path in Path("out").iterdir()} == files
    before = Path("out/model.pt2").read_bytes()
    refused = cli(f"export {other} --to out")
    assert refused.status == 2
    assert "holds an export of the run" in refused.err
    assert "Give another folder, or remove that one" in refused.err
    Path("out/.export-killed").mkdir()
    assert cli(f"export {run} --to out --format torch.export").status == 0
    assert {path.name for path in Path("out").iterdir()} == files
    Path("out/notes.txt").write_text("mine")
    refused = cli(f"export {run} --to out")
    assert (refused.status, "holds other files than an export's: notes.txt" in refused.err) == (2, True)
    assert {path.name for path in Path("out").iterdir()} == files | {"notes.txt"}
    assert Path("out/model.pt2").read_bytes() == before


@pytest.mark.parametrize("again", [False, True])
def test_stopped_it_leaves_what_was_there(cli, finished, monkeypatch, again):
    run = finished(cli)
    if again:
        assert cli(f"export {run} --to out/deep").status == 0
    before = {path: path.read_bytes() for path in Path().rglob("out/**/*.*")}

    def stop(*_):
        raise Stopped(15)

    monkeypatch.setattr(exporting, "card", stop)
    assert cli(f"export {run} --to out/deep --format torch,safetensors").status == 75
    assert {path: path.read_bytes() for path in Path().rglob("out/**/*.*")} == before
    assert Path("out").exists() == again


def test_a_file_that_answers_otherwise_is_not_left(cli, finished, monkeypatch):
    run = finished(cli)
    monkeypatch.setitem(FORMATS, "torch", FORMATS["torch"]._replace(read=lambda *_: lambda x: torch.zeros(len(x), 10)))
    failed = cli(f"export {run} --to out --format torch")
    assert failed.status == 1
    assert "the exported model.pth does not compute what the network computes" in failed.err
    assert not Path("out").exists()


# -- what stands in the README --------------------------------------------------------------------


def test_the_readme_says_how_the_run_was_trained_and_which_checkpoint_it_is(cli, finished, tmp_path):
    run = shutil.copytree(finished(cli, "--model.ema_decay 0.9 --data.val_split 300"), tmp_path / "run")
    facts = summary(run)
    facts["options"] |= {"trainer.precision": "bf16-mixed", "model.weights": "/home/somebody/start.pth"}
    facts["fingerprint"] |= {"weights": "0123456789abcdef"}
    (run / "summary.json").write_text(json.dumps(facts))
    said = cli(f"export {run} --to out")
    assert (said.status, said.err) == (0, "")
    assert "resnet8 of best.ckpt, 10 classes, exported to out" in said.out
    text = Path("out/README.md").read_text()
    assert "trained and validated in bf16-mixed; these files compute in float32" in text
    assert "the weights start.pth, content 0123456789abcdef" in text
    assert re.search(r"seed 0, best.ckpt behind epoch \d", text)
    assert "somebody" not in text
    assert "It is given at 4 x 4 pixels, as its data set has it." in text


def test_held_out_images_are_called_the_same_in_both_places(cli, tmp_path):
    for number, (colour, part) in enumerate((colour, part) for colour in ("red", "blue") for part in range(6)):
        path = tmp_path / "tree" / "train" / colour / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (200 * (colour == "red"), part, 90)).save(path)
    sizes = "--data.train_size 32 --data.eval_resize 32 --data.eval_size 32 --data.batch_size 4 --data.num_workers 0"
    how = "--model.arch resnet8 --trainer.max_epochs 1 --model.schedule.warmup 0 --wandb.mode disabled"
    line = f"--data ImageFolder --data.root {tmp_path}/tree --data.val_split 4 {sizes} {how}"
    done = cli(f"fit {line} --run_dir run")
    assert done.status == 0, done.err
    assert cli("export run --to out").status == 0
    text = Path("out/README.md").read_text()
    assert "compared with the network on 4 held-out training images of ImageFolder" in text
    assert re.search(r"4 held-out training images +\| center", text)


def test_the_readme_says_where_graphs_differ(cli):
    made("resnet8")
    assert cli("export c.ckpt --to out --format safetensors,torch.export --normalise --softmax").status == 0
    text = Path("out/README.md").read_text()
    general = text[text.index("## From a picture") : text.index("## Files")]
    assert "Not so for `model.pt2`: the images are values divided by 255 alone, in [0, 1], and normalised" in general
    assert "Not so for `model.pt2`: the answers are probabilities [B, 6], not logits." in general


def test_others_words_are_shown_as_they_are(cli):
    made("resnet8", classes=2)
    content = torch.load("c.ckpt", weights_only=True)
    content["class_names"] = ["a\n\n# b | c", "<script>&amp; `x` ![i](http://x) **y** a\\|b"]
    torch.save(content, "c.ckpt")
    Path("c.ckpt").rename("<b>|_`c`.ckpt")
    assert cli("export '<b>|_`c`.ckpt' --to out").status == 0
    (row,) = [line for line in Path("out/README.md").read_text().splitlines() if line.startswith("| classes")]
    assert re.sub(r"\\(.)", r"\1", row.split(maxsplit=3)[3]).rstrip("| ") == (
        "a # b | c, <script>&amp; `x` ![i](http://x) **y** a\\|b"
    )
    assert not re.search(r"(?<!\\)[<`*]", re.sub(r"\\\\", "", row)), "nothing is markup"
    assert r"| \<b\>\|\_\`c\`.ckpt " in Path("out/README.md").read_text()


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["out", "link", "out/../out"])
def test_an_export_does_not_remove_what_it_is_made_of(cli, place):
    made("resnet8")
    assert cli("export c.ckpt --to out").status == 0
    Path("link").symlink_to("out")
    before = Path("out/model.safetensors").read_bytes()
    for source in ("out/model.safetensors", "out/model.safetensors#state_dict"):
        found = cli(f"export {source} --to {place} --format torch")
        assert found.status == 2
        assert f"out/model.safetensors lies in --to {place}, whose files an export replaces or removes" in found.err
    assert Path("out/model.safetensors").read_bytes() == before


def test_two_exports_into_one_folder_do_not_meet(cli):
    made("resnet8")
    Path("out").mkdir()
    with exclusive(Path("out/.export-lock")):
        found = cli("export c.ckpt --to out")
        assert (found.status, "another process is exporting into --to out" in found.err) == (2, True)
    assert cli("export c.ckpt --to out").status == 0
    assert {path.name for path in Path("out").iterdir()} == {"README.md", "export.json", "model.safetensors"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_answers_with_no_numbers_is_not_exported(cli, value):
    made("resnet8")
    content = torch.load("c.ckpt", weights_only=True)
    content["state_dict"]["model.conv1.weight"][0, 0, 0, 0] = value
    torch.save(content, "c.ckpt")
    found = cli("export c.ckpt --to out")
    assert found.status == 2
    assert (
        "answers are no finite numbers, on 20 images of noise, for want of the run's test images; neither are"
        in found.err
    )
    assert "neither are its weights, conv1.weight\n" in found.err
    assert not Path("out").exists()


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export nowhere --to out", "no weights at nowhere"),
        ("export . --to out", "is no run directory: it has no summary.json"),
        ("export bare.pth --to out", "fit resnet8 and plain8, and do not say which they are of"),
        ("export bare.pth --model.arch resnet9 --to out", "unknown architecture 'resnet9'"),
        ("export bare.pth --model.arch resnet14 --to out", "do not fit resnet14"),
        ("export c.ckpt --model.arch resnet14 --to out", "do not fit resnet14"),
        ("export evil.ckpt --to out", "holds pickled objects besides tensors"),
        ("export evil.ckpt --model.arch resnet8 --to out", "holds pickled objects besides tensors"),
        ("export c.ckpt --to out --format onxx", "unknown format 'onxx'; did you mean 'onnx'"),
        ("export c.ckpt --to out --format safetensor,onnx", "did you mean 'safetensors'"),
        ("export c.ckpt --to out --format torch,", "unknown format ''"),
        ("export c.ckpt --to out --normalize", "did you mean '--normalise'"),
        ("export c.ckpt --to out --softmax", "--softmax would mean nothing to safetensors"),
        ("export c.ckpt", "not given, and required: --to\n"),
        ("export --to out", "not given, and required: RUN\n"),
        ("export c.ckpt --to c.ckpt", "--to c.ckpt is a file; allowed: a folder"),
        ("export c.ckpt --to c.ckpt/out", "cannot be written: Not a directory"),
        ("export c.ckpt --to /proc/out", "--to /proc/out cannot be written"),
        ("export c.ckpt --to mine", "holds other files than an export's: model.pth"),
    ],
)
def test_mistakes(cli, line, said):
    network = made("resnet8")
    torch.save(network.state_dict(), "bare.pth")
    torch.save({"hyper_parameters": {"arch": "resnet8"}, "x": Payload()}, "evil.ckpt")
    Path("mine").mkdir()
    Path("mine/model.pth").write_text("somebody's")
    found = cli(line)
    assert (found.status, found.out) == (2, "")
    assert said in found.err
    assert not Path("out").exists()
    assert not Path("executed").exists()
    assert Path("mine/model.pth").read_text() == "somebody's"


@pytest.mark.filterwarnings("default::reslightning.errors.Assumed")
def test_what_is_not_known_is_not_normalised_by_and_what_is_assumed_is_said(cli):
    network = made("resnet8")
    content = torch.load("c.ckpt", weights_only=True)
    torch.save({name: content[name] for name in ("state_dict", "hyper_parameters")}, "c.ckpt")
    found = cli("export c.ckpt --to out --format torch.export --normalise")
    assert (found.status, "which these weights do not say" in found.err) == (2, True)
    assert found.err.startswith("c.ckpt: neither checkpoint nor config.yaml says class_names, mean, std, "), (
        "a line, and no warning of Python's"
    )
    assert "; taken where needed: numbers as names; ImageNet's mean and standard deviation; usual sizes\n" in found.err
    torch.save(network.state_dict(), "bare.pth")
    found = cli("export bare.pth --model.arch resnet8 --to out --format torch.export --normalise")
    assumed = "bare.pth says nothing of its network: taken for resnet8; classes 0 to 5; normalised by ImageNet's"
    assert assumed in found.out
    text = Path("out/README.md").read_text()
    assert assumed in text
    assert len(re.findall(r"\d[ ,].*\(assumed: the weights do not say it\)", text)) == 3, (
        "classes, sizes, normalisation"
    )


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_an_exporter_that_is_not_installed_is_named_before_anything_is_done(cli, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    found = cli("export nowhere --to out --format safetensors,onnx")
    assert found.status == 2
    assert f"--format onnx needs {package}, which is not installed" in found.err
    assert "pip install 'reslightning[export]'" in found.err
    assert not Path("out").exists()


FACTS = {"hyper_parameters": {"arch": "resnet8", "num_classes": 2}}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"format": 2}, "is of format 2, and this version of reslightning knows 1"),
        ({"hyper_parameters": "resnet8"}, "does not say rightly hyper_parameters: its metadata is broken"),
        ({"hyper_parameters": {"arch": 3, "num_classes": 2}}, "rightly hyper_parameters"),
        ({"class_names": [1, 2]}, "rightly class_names"),
        ({"class_names": ["a"]}, "rightly its classes"),
        ({"normalisation": {"mean": [0.5] * 3}}, "rightly normalisation"),
        ({"normalisation": {"mean": [0.5] * 3, "std": [float("nan")] * 3}}, "rightly normalisation"),
        ({"normalisation": {"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}}, "rightly normalisation"),
        ({"normalisation": {"mean": [True] * 3, "std": [1] * 3}}, "rightly normalisation"),
        ({"normalisation": {"mean": [1e39] * 3, "std": [1] * 3}}, "rightly normalisation"),
        ({"hyper_parameters": {"arch": "resnet8", "num_classes": -2}}, "rightly hyper_parameters"),
        *(({"sizes": {"image_size": size}}, "rightly sizes") for size in ([8], -3, 0, 4097, 200_000, "8", True)),
        ({"sizes": {"eval_resize": -1}}, "rightly sizes"),
        ({"sizes": {"interpolation": "![x](y)"}}, "rightly sizes"),
        ({"exif_orientation": "no"}, "rightly exif_orientation"),
        ({"trained": "on digits"}, "rightly trained"),
        ({"trained": {"of": "x", "results": [{"top1": 2, "images": 3}]}}, "rightly trained"),
        ({"format": "1"}, "rightly what it is of"),
    ],
)
def test_metadata_that_is_broken_or_newer_is_refused(tmp_path, facts, said):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        write_safetensors(file, {"fc.bias": torch.zeros(2)}, FACTS | facts)
    with pytest.raises(UserError, match=said):
        read_checkpoint(path)


def test_whole_numbers_normalise(cli):
    state, normalisation = lively("resnet8", 2).state_dict(), {"mean": [0, 0, 0], "std": [1, 1, 1]}
    facts = {"hyper_parameters": FACTS["hyper_parameters"] | {"shortcut": "A", "version": "v1"}}
    facts |= {"normalisation": normalisation, "class_names": ["a", "b"]}
    facts["sizes"] = {"image_size": 16, "eval_resize": None, "eval_size": 16, "interpolation": None}
    with Path("m.safetensors").open("wb") as file:
        write_safetensors(file, state, facts)
    assert cli("export m.safetensors --to out --format torch.export --normalise").status == 0


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '"text"'])
def test_metadata_that_is_no_json_object_is_refused_and_others_is_left_alone(tmp_path, text):
    from safetensors.torch import save_file

    tensors = {"fc.bias": torch.zeros(2)}
    save_file(tensors, tmp_path / "m.safetensors", {"reslightning": text})
    with pytest.raises(UserError, match="rightly what it is of: its metadata is broken"):
        read_checkpoint(tmp_path / "m.safetensors")
    save_file(tensors, tmp_path / "m.safetensors", {"format": "pt", "other": text})
    assert read_checkpoint(tmp_path / "m.safetensors").keys() == tensors.keys()
