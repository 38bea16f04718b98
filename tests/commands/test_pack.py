"""pack: ordinary tars with checksums, resized if asked, that go on where they were stopped."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image

from reslightning.commands import pack
from reslightning.data.sources import Source
from tests import images
from tests.conftest import process


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return images.tree(tmp_path_factory.mktemp("tree"))


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive}
    return found


def test_files_are_packed_byte_for_byte(cli, tree, tmp_path):
    result = cli(f"pack {tree} {tmp_path}/packed")
    assert result.status == 0, result.err
    assert "44 images of 4 classes in 2 tars" in result.out
    packed = members(tmp_path / "packed")
    assert packed == {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*.JPEG")}
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=tmp_path / "packed", check=True, capture_output=True)
    assert done.stdout.count(b": OK") == 2
    assert cli(f"pack {tree} {tmp_path}/packed").out.endswith("packed already\n")
    assert cli(f"pack {images.official(tree, tmp_path / 'official')} {tmp_path}/again").status == 0
    assert members(tmp_path / "again") == packed
    names = sorted(path.name for path in (tmp_path / "packed").glob("*.tar"))
    for name in names:  # the same images make the same bytes
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "packed" / name).read_bytes()


@pytest.mark.parametrize("option", ["--max-side 50", "--short-side 40"])
def test_images_are_scaled_down(cli, tree, tmp_path, option):
    (tmp_path / "t").mkdir()
    shutil.copytree(tree, tmp_path / "t", dirs_exist_ok=True)
    odd = io.BytesIO()
    Image.new("CMYK", (300, 200)).save(odd, "JPEG")
    (tmp_path / "t" / "train" / "n01440764" / "cmyk.JPEG").write_bytes(odd.getvalue())
    assert cli(f"pack {tmp_path}/t {tmp_path}/packed {option} --quality 95").status == 0
    packed = members(tmp_path / "packed")
    assert len(packed) == 45
    side = int(option.split()[1])
    for name, content in packed.items():
        with Image.open(tmp_path / "t" / name) as image:
            before = image.size
        with Image.open(io.BytesIO(content)) as image:
            now = image.size
        whole = max(before) if "max" in option else min(before)
        assert (max(now) if "max" in option else min(now)) == min(side, whole)
        assert now[0] / now[1] == pytest.approx(before[0] / before[1], rel=0.03)
        if whole <= side:
            assert content == (tmp_path / "t" / name).read_bytes()
    assert len(Source(tmp_path / "packed").labels("train")) == 33


def test_it_goes_on_where_it_was_killed(cli, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "SHARD", 20_000.0)
    dest = tmp_path / "packed"
    real = pack.Source.read

    def full(source, split, position):
        if position >= 12:
            deadline = time.monotonic() + 20  # the tars before it are whole and recorded
            while '"name"' not in (dest / "pack.json").read_text() and time.monotonic() < deadline:
                time.sleep(0.01)
            raise OSError(28, "No space left on device")
        return real(source, split, position)

    monkeypatch.setattr(pack.Source, "read", full)
    result = cli(f"pack {tree} {dest} --workers 1")
    assert result.status == 2
    assert "No space left on device" in result.err
    assert "The same command goes on" in result.err
    assert not list(dest.glob(".*"))
    record = json.loads((dest / "pack.json").read_text())
    first = {name: (dest / name).stat().st_mtime_ns for name in record["tars"]}
    assert len(first) >= 1
    monkeypatch.setattr(pack.Source, "read", real)
    os.truncate(dest / next(iter(first)), 100)  # and one that was cut is made again
    assert cli(f"pack {tree} {dest}").status == 0
    whole = json.loads((dest / "pack.json").read_text())["tars"]
    assert len(whole) > 3
    for name, found in whole.items():
        assert hashlib.sha256((dest / name).read_bytes()).hexdigest() == found["sha256"]
    assert len(members(dest)) == 44


@pytest.mark.slow
def test_ctrl_c(tree, tmp_path):
    root = images.tree(tmp_path / "many", train=3000, val=1)
    child = process(f"pack {root} {tmp_path}/packed --max-side 40 --workers 2")
    while not list((tmp_path / "packed").glob(".*.partial")):
        assert child.poll() is None, child.communicate()
    child.send_signal(2)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 130, out
    assert "Traceback" not in out
    assert not list((tmp_path / "packed").glob(".*.partial"))


def test_refused(cli, tree, tmp_path):
    assert cli(f"pack {tree} {tmp_path}/packed").status == 0
    other = cli(f"pack {tree} {tmp_path}/packed --max-side 30")
    assert other.status == 2
    assert "other options (max_side differ)" in other.err
    assert "no such folder or tar" in cli(f"pack {tmp_path}/nowhere {tmp_path}/x").err
    assert cli(f"pack {tree} {tmp_path}/x --max-side 0").status == 2
    assert cli(f"pack {tree} {tmp_path}/x --max-side 3 --short-side 3").status == 2
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a.tar").touch()
    assert "holds tars that pack did not make" in cli(f"pack {tree} {tmp_path}/foreign").err
    (tmp_path / "packed" / "pack.json").write_text("{")
    assert "pack.json is damaged" in cli(f"pack {tree} {tmp_path}/packed").err


def test_a_corrupt_image_is_named(cli, tmp_path):
    root = images.tree(tmp_path / "t")
    path = root / "train" / "n02123045" / "n02123045_4.JPEG"
    os.truncate(path, 500)
    result = cli(f"pack {root} {tmp_path}/packed --max-side 30")
    assert result.status == 2
    assert f"corrupt image {path}" in result.err


def test_a_full_disk(cli, tree, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(small)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    try:
        result = cli(f"pack {tree} {small}/packed")
        assert result.status == 2
        assert "has no room" in result.err
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{tree} {tree}", "is the source, which would then hold its images twice"),
        ("{tree} {tree}/train/..", "is the source"),
        ("{tree} out --quality 90", "--quality=90 would not count"),
        ("{tree} ''", "is empty"),
        ("'' out", "is empty"),
    ],
)
def test_what_would_not_count_leaves_nothing(cli, tree, tmp_path, given, said):
    before = sorted(tree.rglob("*"))
    result = cli(f"pack {given.format(tree=tree)}")
    assert result.status == 2
    assert said in result.err
    assert sorted(tree.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []
