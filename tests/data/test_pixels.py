"""Pixels: depths, orientation, frames and formats mean the same in fit, in evaluation and in what pack makes."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from reslightning.data import ImageFolder, ImageNet, decode
from tests import images
from tests.conftest import checkpoint, rows, summary
from tests.data.test_decode import draws
from tests.train.test_preemption import STRIKE

LINE = (
    "fit --data ImageFolder --data.batch_size 8 --data.train_size 8 --data.eval_resize 9 --data.eval_size 8 "
    "--data.num_workers 0 --model.arch resnet8 --model.schedule.warmup 0 --wandb.mode disabled --trainer.max_epochs 1 "
)
DEEP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
RGB = np.stack([DEEP, DEEP[::-1], DEEP.T], 2)


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, 2)


SIXTEEN = {
    "PNG": (saved(Image.fromarray(DEEP), "PNG"), grey(DEEP)),
    "TIFF": (saved(Image.fromarray(DEEP), "TIFF"), grey(DEEP)),
    "big-endian TIFF": (saved(Image.fromarray(DEEP.astype(">u2")), "TIFF"), grey(DEEP)),
    "compressed TIFF": (saved(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"), grey(DEEP)),
    "PGM": (b"P5 64 64 65535\n" + DEEP.astype(">u2").tobytes(), grey(DEEP)),
    "JPEG 2000": (saved(Image.fromarray(DEEP), "JPEG2000"), grey(DEEP)),
    "colour PPM": (b"P6 64 64 65535\n" + RGB.astype(">u2").tobytes(), RGB),
    "colour PNG": (cv2.imencode(".png", RGB[:, :, ::-1])[1].tobytes(), RGB),
    "colour TIFF": (cv2.imencode(".tiff", RGB[:, :, ::-1])[1].tobytes(), RGB),
}


@pytest.mark.parametrize("name", SIXTEEN)
def test_16_bits_become_8_by_their_upper_byte(name):
    content, expected = SIXTEEN[name]
    assert np.array_equal(decode.decode(content), expected >> 8)


def test_12_bits_of_a_pgm_are_scaled():
    values = DEEP >> 4
    assert np.array_equal(decode.decode(b"P5 64 64 4095\n" + values.astype(">u2").tobytes()), grey(DEEP >> 8))


def test_white_is_zero_in_some_tiffs():
    file = bytearray(saved(Image.fromarray(DEEP), "TIFF"))
    tag = file.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    file[tag + 8] = 0
    assert np.array_equal(decode.decode(bytes(file)), grey(255 - (DEEP >> 8)))


def floats() -> dict[str, tuple[str, bytes]]:
    return {
        "float": ("a.tif", saved(Image.fromarray(DEEP.astype(np.float32)), "TIFF")),
        "32 bits": ("a.tiff", saved(Image.fromarray(DEEP.astype(np.int32)), "TIFF")),
        "PFM": ("a.pfm", saved(Image.fromarray(DEEP.astype(np.float32)), "PPM")),
        "colour float": ("a.TIF", cv2.imencode(".tiff", RGB.astype(np.float32))[1].tobytes()),
    }


@pytest.mark.parametrize("name", floats())
@pytest.mark.parametrize("command", ["fit", "pack", "pack --max_side 20"])
def test_other_depths_are_refused_by_name(cli, tmp_path, name, command):
    file, content = floats()[name]
    path = images.tree(tmp_path / "t", classes=("cat", "dog"), train=4, val=2) / "train" / "cat" / file
    path.write_bytes(content)
    line = f"{LINE} --data.root {tmp_path}/t --data.batch_size 9 --run_dir {tmp_path}/run"
    result = cli(line if command == "fit" else f"{command} {tmp_path}/t {tmp_path}/packed")
    assert result.status == 2
    assert f"image {path}: it" in result.err
    assert "depth" in result.err or "allowed: unsigned, of 8 or 16 bits" in result.err


def turned(value: int, **options) -> bytes:
    exif = Image.Exif()
    exif[decode.ORIENTATION] = value
    return images.jpeg(value, 60, 48, exif=exif, **options)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "WEBP", "TIFF"])
def test_upright_is_what_pillow_makes_of_it(value, kind):
    content = turned(value, progressive=kind == "progressive")
    if kind in ("PNG", "WEBP", "TIFF"):
        with Image.open(io.BytesIO(content)) as image:
            content = saved(image, kind, exif=image.getexif(), **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode.decode(content, upright=True), expected)
    for seed in range(10):  # no crop is scaled down
        part, box = decode.decode_part(content, draws(seed), 400, upright=True)
        b = decode.random_resized_crop_box(*expected.shape[:2], draws(seed))
        found = part[box.top : box.top + box.height, box.left : box.left + box.width]
        assert np.array_equal(found, expected[b.top : b.top + b.height, b.left : b.left + b.width])


def test_broken_exif_says_no_orientation():
    content = turned(6)
    start = content.index(b"Exif\0\0") + 6
    for broken in (
        content[: start + 8] + b"\xff" * 12 + content[start + 20 :],
        content.replace(b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06", b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x09"),
    ):
        assert decode.decode(broken, upright=True).shape == (48, 60, 3)


@pytest.fixture
def lying(tmp_path):
    """Validation images that lie on their side, and training images upside down."""
    root = images.tree(tmp_path / "t", classes=images.WNIDS[:2], train=4, val=2)
    for number, path in enumerate(sorted(root.rglob("*.JPEG"))):
        exif = Image.Exif()
        exif[decode.ORIENTATION] = 6 if "val" in path.parts else 3
        path.write_bytes(images.jpeg(number, 60, 30, exif=exif))
    return root


def test_orientation_is_on_for_one_s_own_images_off_for_imagenet_and_recorded(cli, lying, tmp_path):
    sizes = {"eval_resize": 9, "eval_size": 8, "batch_size": 4}
    own, imagenet, told = (
        kind(root=str(lying), **sizes, **options)
        for kind, options in ((ImageFolder, {}), (ImageNet, {}), (ImageNet, {"exif_orientation": True}))
    )
    for data in (own, imagenet, told):
        data.setup()
    assert np.array_equal(own.picture("val", 1), told.picture("val", 1))
    assert not np.array_equal(own.picture("val", 1), imagenet.picture("val", 1))
    line = f"{LINE} --data.root {lying} --run_dir {tmp_path}"
    assert cli(f"{line}/on").status == 0
    assert summary(tmp_path / "on")["exif_orientation"] is True
    assert cli(f"{line}/off --data.exif_orientation false").status == 0
    found = summary(tmp_path / "off")
    assert (found["exif_orientation"], found["options"]["data.exif_orientation"]) == (False, False)
    assert rows(tmp_path / "on") != rows(tmp_path / "off")
    assert cli(f"test --run_dir {tmp_path}/on").status == 0
    (evaluated,) = (tmp_path / "on" / "evaluations").glob("test-*.json")
    assert json.loads(evaluated.read_text())["exif_orientation"] is True


def test_a_run_from_before_the_option_goes_on_and_is_evaluated_without_turning(cli, lying, tmp_path):
    line = f"{LINE} --data.root {lying} --trainer.max_epochs 2 --run_dir {tmp_path}"
    assert cli(f"{line}/off --data.exif_orientation false").status == 0
    strike = STRIKE.format(mark=tmp_path / "mark", step=1, place="train", name="SIGTERM")
    stopped = cli(f"{line}/old --data.exif_orientation false {strike}")
    assert stopped.status == 75, stopped.err
    config, facts = tmp_path / "old" / "config.yaml", tmp_path / "old" / "summary.json"
    text = config.read_text()
    config.write_text("".join(part for part in text.splitlines(True) if "exif_orientation" not in part))
    facts.write_text(json.dumps({k: v for k, v in summary(tmp_path / "old").items() if k != "exif_orientation"}))
    assert cli(f"fit --run_dir {tmp_path}/old").status == 0
    assert rows(tmp_path / "old") == rows(tmp_path / "off")
    assert summary(tmp_path / "old")["exif_orientation"] is False
    assert checkpoint(tmp_path / "old")["epoch"] == 1
    assert cli(f"test --run_dir {tmp_path}/old").status == 0
    (evaluated,) = (tmp_path / "old" / "evaluations").glob("test-*.json")
    assert json.loads(evaluated.read_text())["exif_orientation"] is False


def test_what_pack_makes_smaller_keeps_its_orientation_and_its_depth(cli, tmp_path):
    root = images.tree(tmp_path / "t", classes=("cat", "dog"), train=2, val=1)
    folder = root / "train" / "cat"
    for value in (3, 6, 7):
        (folder / f"{value}.jpg").write_bytes(turned(value))
    with Image.open(io.BytesIO(turned(8))) as image:
        (folder / "8.png").write_bytes(saved(image, "PNG", exif=image.getexif()))
    (folder / "deep.png").write_bytes(SIXTEEN["colour PNG"][0])
    assert cli(f"pack {root} {tmp_path}/packed --max_side 30 --quality 100").status == 0
    with tarfile.open(next((tmp_path / "packed").glob("train*.tar"))) as archive:
        for path in [folder / "3.jpg", folder / "6.jpg", folder / "7.jpg", folder / "8.png", folder / "deep.png"]:
            content = archive.extractfile(f"train/cat/{path.name}").read()
            before = Image.fromarray(decode.decode(path.read_bytes(), upright=True))
            now = decode.decode(content, upright=True)
            assert max(now.shape) == 30
            expected = np.asarray(before.resize(now.shape[1::-1], Image.Resampling.LANCZOS)).astype(int)
            assert np.abs(now - expected).mean() < 12


def frames(kind: str, **options) -> bytes:
    first, second = (Image.new("RGB", (20, 16), colour) for colour in ("red", "blue"))
    return saved(first, kind, save_all=True, append_images=[second], **options)


def test_formats_frames_and_what_is_left_out_are_counted_and_named(cli, tmp_path):
    root = images.tree(tmp_path / "t", classes=("cat", "dog"), train=2, val=1)
    folder = root / "train" / "cat"
    for name, content in {
        "a.GIF": frames("GIF"),
        "b.webp": frames("WEBP", lossless=True),
        "c.png": frames("PNG"),
        "d.tiff": frames("TIFF"),
        "e.jfif": images.jpeg(100),
        "f.jpe": images.jpeg(101),
        "g.BMP": saved(Image.new("RGB", (9, 9)), "BMP"),
        "h.heic": b"photograph",
        "i.txt": b"words",
    }.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "j.png")
    (folder / "k.jpg").symlink_to("/dev/null")
    result = cli(f"{LINE} --data.root {root} --data.batch_size 11 --run_dir {tmp_path}/run")
    assert result.status == 0, result.err
    assert summary(tmp_path / "run")["n_samples"]["train"] == 11
    assert "not read: 4 files that are no images of a known kind: " in result.out
    for name in ("h.heic", "i.txt", "j.png", "k.jpg"):
        assert f"train/cat/{name}" in result.out
    assert "first frames: 4 images have several: train/cat/a.GIF, train/cat/b.webp" in result.out
    for name in ("a.GIF", "b.webp", "c.png", "d.tiff"):
        red = decode.decode((folder / name).read_bytes())[8, 8]
        assert red[0] > 250
        assert red[2] < 5
    assert "first frames: 4" in cli(f"test --run_dir {tmp_path}/run").out
    packed = cli(f"pack {root} {tmp_path}/packed")
    assert packed.status == 0
    assert "not read: 4 files" in packed.out
    assert "first frames: 4 images" in packed.out


def test_a_pipe_that_took_an_image_s_place_is_not_opened(cli, tmp_path):
    root = images.tree(tmp_path / "t", classes=("cat", "dog"), train=4, val=1)
    data = ImageFolder(root=str(root), eval_resize=9, eval_size=8, batch_size=4)
    data.setup()
    path = Path(data.images.describe("val", 0))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a regular file"):
        data.images.read("val", 0)
    os.mkfifo(root / "val.txt")
    shutil.rmtree(root / "train")
    assert cli(f"test --data ImageFolder --data.root {root} --model.weights x.pt").status == 2


@pytest.mark.parametrize("how", ["cut", "foreign", "empty"])
def test_pack_looks_at_what_it_leaves_as_it_is(cli, tmp_path, how):
    root = images.tree(tmp_path / "t", classes=("cat", "dog"), train=3, val=1)
    path = root / "train" / "dog" / "dog_1.JPEG"
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-200], "foreign": b"<html></html>", "empty": b""}[how])
    result = cli(f"pack {root} {tmp_path}/packed")
    assert result.status == 2
    assert f"corrupt image {path}" in result.err
    assert not list((tmp_path / "packed").glob("train*.tar"))
