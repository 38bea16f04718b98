"""predict of pictures, through the command line: the same bits as a test, whatever lies about, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from reslightning import load
from tests import images
from tests.conftest import checkpoint

SIZES = "--data.train_size 32 --data.eval_resize 40 --data.eval_size 32"
ODD = {
    "palette.png": ("P", {}),
    "alpha.png": ("RGBA", {}),
    "grey.jpg": ("L", {}),
    "cmyk.jpg": ("CMYK", {}),
    "sixteen.png": ("I;16", {}),
    "black and white.tif": ("1", {}),
    "rotated.jpg": ("RGB", {"exif": 6}),
    "webp.webp": ("RGB", {"lossless": True}),
}


def picture(path, number: int, mode: str = "RGB", exif: int = 0, **options):
    """Write one of several pictures, in a mode."""
    image = Image.open(io.BytesIO(images.jpeg(number, 70, 50)))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8 | 17)
    elif mode != "RGB":
        image = image.convert(mode)
    if exif:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = exif
    image.save(path, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on files, trained so that answers vary, and test images in every mode."""
    made = []

    def make(cli):
        if not made:
            root = tmp_path_factory.mktemp("pictures")
            images.tree(root / "data", val=1)
            test = root / "data" / "test" / images.WNIDS[0]
            test.mkdir(parents=True)
            for number, (name, (mode, options)) in enumerate(ODD.items()):
                picture(test / name, number, mode, **options)
            frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green")]
            frames[0].save(test / "animated.gif", save_all=True, append_images=frames[1:])
            Image.new("RGB", (1, 1), "blue").save(test / "one pixel.png")
            how = "--model.arch resnet8 --data.batch_size 8 --trainer.max_epochs 4 --wandb.mode disabled"
            line = f"fit --data ImageFolder --data.root {root}/data {SIZES} {how} --run_dir {root}/run"
            assert cli(line).status == 0
            made.append((root / "run", test))
        return made[0]

    return make


def table(text: str) -> dict[str, list[str]]:
    """Return what CSV says of each file."""
    return {row[0]: row[1:] for row in list(csv.reader(io.StringIO(text)))[1:]}


def test_pictures_get_the_bits_that_a_test_gives_them(cli, trained, tmp_path):
    run, test = trained(cli)
    assert cli(f"test --run_dir {run} --save {tmp_path}/t.npz --data.num_workers 0").status == 0
    with np.load(tmp_path / "t.npz") as file:
        known = {name.rpartition("/")[2]: row for name, row in zip(file["names"], file["probabilities"], strict=True)}
        classes = file["classes"].tolist()
    found = cli(f"predict {test} --run_dir {run} --format csv --top 4 --batch_size 64")
    assert found.status == 0, found.err
    rows = table(found.out)
    assert {name.rpartition("/")[2] for name in rows} == known.keys() == {*ODD, "animated.gif", "one pixel.png"}
    assert len({row[0] for row in rows.values()}) > 1  # else any network would do
    for name, row in rows.items():
        probabilities = dict(zip(row[::2], map(float, row[1::2]), strict=True))
        assert [probabilities[one] for one in classes] == known[name.rpartition("/")[2]].tolist()

    others = table(cli(f"predict {test} --run_dir {run} --format csv --top 4 --batch_size 3 --data.num_workers 2").out)
    assert others.keys() == rows.keys()
    for name, row in others.items():
        assert row[::2] == rows[name][::2]
        assert np.allclose(list(map(float, row[1::2])), list(map(float, rows[name][1::2])), atol=1e-5)


def test_small_data_s_own_pictures_get_its_test_s_bits(cli, finished, tmp_path):
    """Images that have the network's size are neither scaled nor cut."""
    from tests.small import Thumbnails

    run = finished(cli)
    assert cli(f"predict --run_dir {run} --output {tmp_path}/all.csv --embeddings {tmp_path}/all.npz").status == 0
    rows = list(csv.reader((tmp_path / "all.csv").read_text().splitlines()))[1:]
    pictures, labels = Thumbnails().load(train=False)
    (tmp_path / "folder").mkdir()
    for number, one in enumerate(pictures):
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(tmp_path / "folder" / f"{number:04}.png")
    line = f"predict {tmp_path}/folder --run_dir {run} --format csv --top 10 --batch_size 512"
    found = cli(f"{line} --embeddings {tmp_path}/own.npz")
    assert found.status == 0, found.err
    for row, mine in zip(rows, table(found.out).values(), strict=True):
        probabilities = dict(zip(mine[::2], mine[1::2], strict=True))
        assert [probabilities[str(label)] for label in range(10)] == row[3:13]
    with np.load(tmp_path / "all.npz") as whole, np.load(tmp_path / "own.npz") as own:
        assert np.array_equal(whole["vectors"], own["vectors"])
        assert np.array_equal(whole["labels"], labels.numpy())
        assert set(own["labels"].tolist()) == {-1}
        assert whole["names"][1] == "test/1"
        assert own["names"][1].endswith("folder/0001.png")
        network = load(run)
        logits = torch.from_numpy(whole["vectors"]) @ network.model.fc.weight.T + network.model.fc.bias
    assert np.array_equal(logits.argmax(1).detach().numpy(), [int(row[2]) for row in rows])


def test_whatever_lies_about_is_found(cli, trained, tmp_path, monkeypatch):
    run, test = trained(cli)
    here = tmp_path / "here"
    (here / "deep").mkdir(parents=True)
    for name in ("b.png", "deep/a.png", "no suffix"):
        picture(here / "x.png", len(name))
        (here / "x.png").rename(here / name)
    (here / "deep" / "up").symlink_to(here)  # without end
    (here / ".hidden.png").write_bytes(b"")
    (here / "notes.md").write_text("notes")
    with tarfile.open(here / "some.tar", "w") as archive:
        archive.add(test / "cmyk.jpg", "in/cmyk.jpg")
        archive.add(here / "notes.md", "in/notes.md")
    (tmp_path / "list.txt").write_text(f"{here}/b.png\n\n{here}/no suffix\nhere/gone.png\n")

    found = cli(f"predict {here} 'here/no suffix' list.txt --run_dir {run} --format jsonl --top 1")
    assert found.status == 1
    lines = list(map(json.loads, found.out.splitlines()))
    assert [line["file"] for line in lines] == [
        f"{here}/b.png",
        f"{here}/some.tar:in/cmyk.jpg",
        f"{here}/deep/a.png",
        "here/no suffix",
        f"{here}/b.png",
        f"{here}/no suffix",
        "here/gone.png",
    ]
    assert lines[0]["classes"] == lines[4]["classes"]
    assert lines[3]["classes"] == lines[5]["classes"]
    assert lines[6] == {"file": "here/gone.png", "error": "here/gone.png: No such file or directory"}
    assert "not read: 3 files that are no pictures by their names" in found.err
    assert "1 of 7 pictures could not be read" in found.err

    for content in ((here / "b.png").read_bytes(), f"{here}/b.png\0".encode()):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        piped = cli(f"predict - --run_dir {run} --format jsonl --top 1")
        (answer,) = json.loads(piped.out)["classes"]
        assert answer["class"] == lines[0]["classes"][0]["class"]
        assert answer["probability"] == pytest.approx(lines[0]["classes"][0]["probability"], abs=1e-5)


def test_a_picture_that_cannot_be_read_is_a_line_and_the_rest_goes_on(cli, trained, tmp_path):
    run, _ = trained(cli)
    whole = images.jpeg(1, 300, 200)
    bad = {"cut.jpg": whole[:900], "none.png": b"not a picture", "empty.gif": b""}
    (tmp_path / "in").mkdir()
    for name, content in bad.items():
        (tmp_path / "in" / name).write_bytes(content)
    Image.new("L", (20_000, 200)).save(tmp_path / "in" / "wide.png")
    Image.new("L", (4, 9000)).save(tmp_path / "in" / "long.png")
    (tmp_path / "in" / "z.jpg").write_bytes(whole)
    (tmp_path / "in" / "link.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    found = cli(f"predict in --run_dir {run} --output out.csv --format csv --sheet s.png --embeddings e.npz")
    assert found.status == 1
    assert list(table((tmp_path / "out.csv").read_text())) == ["in/z.jpg"]
    assert np.load(tmp_path / "e.npz")["names"].tolist() == ["in/z.jpg"]
    assert "7 of 8 pictures could not be read" in found.err
    for said in (
        "not read: corrupt image in/cut.jpg",
        "too large image in/wide.png: it has 20,000 x 200 pixels; allowed: 16,384 a side",
        "of which scaling the shorter side to 40 would make 90,000; allowed: 65,536",
        "in/link.jpg: No such file or directory",
        "in/pipe.jpg: a pipe or a device",
    ):
        assert said in found.err
    assert "Traceback" not in found.err


def test_views_are_averaged_as_a_test_does(cli, trained, tmp_path):
    run, test = trained(cli)
    line = f"--run_dir {run} --protocol ten-crop --average logits"
    assert cli(f"test {line} --save {tmp_path}/t.npz --data.num_workers 0").status == 0
    rows = table(cli(f"predict {test} {line} --format csv --batch_size 64 --top 1").out)
    with np.load(tmp_path / "t.npz") as file:
        best = file["probabilities"].max(1).tolist()
    assert sorted(float(row[1]) for row in rows.values()) == pytest.approx(sorted(best), abs=1e-12)


def test_a_checkpoint_s_and_a_bare_file_s_network(cli, trained, tmp_path):
    run, test = trained(cli)
    said = cli(f"predict {test} --run_dir {run}")
    assert said.out.splitlines()[0].endswith(" %)")
    assert "resnet8 from" in said.err
    assert "4 classes; 40 to 32 pixels, center-40-32" in said.err
    last = run / "checkpoints" / "last.ckpt"
    assert cli(f"predict {test} --model.weights {last}").out == said.out
    assert cli(f"predict {test} --model.weights {run}").out == said.out
    torch.save({k.removeprefix("model."): v for k, v in checkpoint(run)["state_dict"].items()}, tmp_path / "w.pth")
    bare = cli(f"predict {test} --model.weights w.pth")
    assert (bare.status, bare.err.partition("\n")[0]) == (
        2,
        "reslightning: the weights in w.pth fit resnet8 and plain8, and do not say which they are of",
    )
    (tmp_path / "names.txt").write_text("\n".join(["tench", "goldfish", "tabby", "golf ball"]))
    sizes = "--data.eval_resize 40 --data.eval_size 32"
    named = cli(f"predict {test} --model.weights w.pth --model.arch resnet8 --classes names.txt {sizes}")
    assert "w.pth says nothing of its network: taken for resnet8; classes 0 to 3" in named.err
    assert named.out == said.out.replace("tiger cat", "tabby") or "tench" in named.out


@pytest.mark.filterwarnings("default::reslightning.errors.Assumed")
def test_an_older_checkpoint_s_pictures_have_its_network_s_usual_size(cli, trained, tmp_path):
    run, test = trained(cli)
    content = checkpoint(run)
    torch.save({name: value for name, value in content.items() if name != "sizes"}, tmp_path / "old.ckpt")
    assert "32 to 32 pixels" in cli(f"predict {test}/grey.jpg --model.weights old.ckpt").err


def test_a_sheet_shows_them(cli, trained, tmp_path):
    run, test = trained(cli)
    found = cli(f"predict {test} --run_dir {run} --sheet {tmp_path}/sheet.png")
    assert found.status == 0
    assert f"sheet written to {tmp_path}/sheet.png" in found.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 300
        assert len(sheet.convert("RGB").getcolors(2**24)) > 1000


def test_a_place_that_is_none_keeps_nothing_from_being_read(cli, trained, tmp_path):
    run, test = trained(cli)
    (tmp_path / "empty").mkdir()
    (tmp_path / "self.txt").write_text(f"self.txt\n{test}/palette.png\n")
    (tmp_path / "windows.txt").write_bytes(f"{test}/grey.jpg\r\n".encode("utf-16"))
    (tmp_path / "bom.txt").write_bytes(f"\ufeff{test}/grey.jpg\n".encode())
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        archive.add(test / "grey.jpg", "grey.jpg")
        (tmp_path / "link.jpg").symlink_to("nowhere")
        archive.add(tmp_path / "link.jpg", "link.jpg")
    (tmp_path / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    places = "empty self.txt windows.txt bom.txt odd.tar script.jpg"
    found = cli(f"predict {places} --run_dir {run} --format csv --top 1")
    assert found.status == 1
    answers = [line.partition(",")[0] for line in found.out.splitlines()[1:]]
    assert answers == [f"{test}/palette.png", *2 * [f"{test}/grey.jpg"], "odd.tar:grey.jpg"]
    for said in (
        "no pictures in empty",
        "names itself",
        "odd.tar holds a link",
        "image script.jpg: its bytes are of no",
    ):
        assert said in found.err
    assert "4 of 8 pictures could not be read" in found.err


def test_names_forge_no_lines(cli, trained, tmp_path):
    run, test = trained(cli)
    shutil.copy(test / "grey.jpg", tmp_path / "a\nb  forged (100.00 %)\u202e.jpg")
    (tmp_path / "c\nd.jpg").write_bytes(b"")
    found = cli(f"predict . --run_dir {run}")
    assert found.out.startswith(r"./a\nb  forged (100.00 %)\u202e.jpg  ")
    assert len(found.out.splitlines()) == 1
    assert r"not read: corrupt image ./c\nd.jpg" in found.err


def test_no_program_is_started_by_a_picture(cli, trained, tmp_path, monkeypatch):
    run, _ = trained(cli)
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")

    def started(*given, **options):
        raise AssertionError(given)

    monkeypatch.setattr("subprocess.Popen.__init__", started)
    assert "its bytes are of no format" in cli(f"predict a.jpg --run_dir {run}").err


def test_what_is_read_is_not_written_over(cli, trained, tmp_path):
    run, test = trained(cli)
    shutil.copy(test / "grey.jpg", tmp_path / "a.jpg")
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "w.ckpt")
    (tmp_path / "names.txt").write_text("a.jpg\n")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for line in (
        f"a.jpg --run_dir {run} --output a.jpg",
        f". --run_dir {run} --sheet link.jpg",
        f"names.txt --run_dir {run} --output names.txt",
        "a.jpg --model.weights w.ckpt --output w.ckpt",
        "a.jpg --model.weights w.ckpt --classes names.txt --output ./names.txt",
    ):
        found = cli(f"predict {line}")
        assert (found.status, "would replace what is read" in found.err) == (2, True), (line, found.err)
    found = cli(f"predict a.jpg --run_dir {run} --output s.png --sheet s.png")
    assert "--output and --sheet name one file" in found.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_weights_that_are_no_numbers_are_no_answer(cli, trained, tmp_path):
    run, test = trained(cli)
    state = {k.removeprefix("model."): v * float("nan") for k, v in checkpoint(run)["state_dict"].items()}
    torch.save(state, tmp_path / "w.pth")
    found = cli(f"predict {test}/grey.jpg --model.weights w.pth --model.arch resnet8 --output o.csv")
    assert (found.status, "the network's answers are no numbers" in found.err) == (1, True)
    assert not (tmp_path / "o.csv").exists()


def test_a_closed_input_is_empty(cli, trained, monkeypatch):
    run, _ = trained(cli)
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is empty" in cli(f"predict - --run_dir {run}").err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_stopped_prediction_leaves_nothing(cli, trained, tmp_path, monkeypatch, name):
    run, test = trained(cli)
    strike = lambda *_: os.kill(os.getpid(), signal.Signals[name])  # noqa: E731
    monkeypatch.setattr("reslightning.evaluation.outputs.Lines._csv", strike)
    found = cli(f"predict {test} --run_dir {run} --format csv --output o.csv --sheet s.png --embeddings e.npz")
    assert found.status in (75, 130)
    assert "Traceback" not in found.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predict --run_dir {run} --sheet s.png", "--sheet is of pictures, and none are given"),
        ("predict {test} --run_dir {run} --trainer.precision 3", "the trainer does not take its options"),
        ("predict {test} --run_dir {run} --trainer.accelerator abacus", "given: trainer.accelerator=abacus"),
        ("predict {test} --run_dir {run} --model.arch resnet20", "says its network\nLeave it out."),
        ("predict {test}", "predict needs weights and got none"),
        ("predict empty --run_dir {run}", "no pictures in empty"),
        ("predict {run} --run_dir {run}", "is a run, and no folder of pictures"),
        ("predict list.txt --run_dir {run}", "list.txt is no list of pictures: its first 2 lines name no file, 'one'"),
        ("predict {test} --run_dir {run} --classes nowhere.txt", "cannot read --classes nowhere.txt: No such file"),
        ("predict {test} --run_dir {run} --classes list.txt", "names 2 classes, and the weights know 4"),
        ("predict {test} --run_dir {run} --sheet s.gif", "--sheet s.gif is no picture; allowed: .png"),
        ("predict {test} --run_dir {run} --sheet /proc/s.png", "--sheet /proc/s.png cannot be written"),
        ("predict {test} --run_dir {run} --embeddings e.csv", "has no name of such a file; allowed: FILE.npz"),
        ("predict {test} --run_dir {run} --output {run}/config.yaml", "is a file that the run"),
        ("predict {test} --run_dir {run} --protocol flip --sheet s.png", "--sheet is of an image's one view"),
        ("predict {test} --run_dir {run} --protocol flip,center", "names 2; allowed: one"),
        ("predict {test} --run_dir {run} --protocol dense", "and resnet8 is none"),
        ("predict {test} --run_dir {run} --tpo 3", "did you mean '--top'"),
        ("predict {test} --run_dir {run} --top 0", "--top=0 is not allowed; allowed: a whole number, 1 or more"),
        ("predict {test} --run_dir {run} --format xml", "--format=xml is not allowed; allowed: table, csv, jsonl"),
        ("predict {test} --run_dir {run} --data.eval_size 64", "is more than data.eval_resize=40"),
        ("predict {test} --model.weights torchvision:resnet5.X", "torchvision has no weights for 'resnet5'"),
        ("predict {test} --model.weights nowhere.pth", "no weights at nowhere.pth"),
    ],
)
def test_what_is_refused_leaves_nothing(cli, trained, tmp_path, line, said):
    run, test = trained(cli)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("one\ntwo\n")
    before = sorted(tmp_path.rglob("*"))
    found = cli(line.format(run=run, test=test))
    assert found.status == 2, found.err
    assert said in found.err
    assert found.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_torchvision_s_weights_are_seen_as_torchvision_sees_them(cli, trained, tmp_path, monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18
    from torchvision.models._api import WeightsEnum

    _, test = trained(cli)
    torch.manual_seed(0)
    theirs = resnet18()
    theirs.fc.weight.data *= 20
    state = theirs.state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: dict(state))
    found = cli(f"predict {test}/rotated.jpg --model.weights torchvision:resnet18.IMAGENET1K_V1 --format jsonl --top 5")
    assert found.status == 0, found.err
    upright = transforms.functional.to_pil_image(
        np.asarray(__import__("PIL.ImageOps").ImageOps.exif_transpose(Image.open(test / "rotated.jpg")))
    )
    entry = ResNet18_Weights.IMAGENET1K_V1
    with torch.no_grad():
        share, best = theirs.eval()(entry.transforms()(upright)[None]).softmax(1)[0].topk(5)
    classes = json.loads(found.out)["classes"]
    assert [one["probability"] for one in classes] == pytest.approx(share.tolist(), rel=0.05)
    assert classes[0]["class"].partition(",")[0] == entry.meta["categories"][int(best[0])]
