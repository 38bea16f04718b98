"""Corrupt images: named, or replaced in training alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reslightning.data.sampler import TrainSampler
from tests import images
from tests.conftest import summary
from tests.data.test_folder import LINE
from tests.ranks import TWO, run
from tests.train.test_preemption import NOTE


@pytest.fixture
def corrupt(tmp_path) -> Path:
    """A tree with a cut, an empty and a foreign training image."""
    root = images.tree(tmp_path / "corrupt", train=9)
    folder = root / "train" / "n01443537"
    os.truncate(folder / "n01443537_2.JPEG", 700)
    os.truncate(folder / "n01443537_5.JPEG", 0)
    (folder / "n01443537_7.JPEG").write_text("<html>not found</html>")
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_an_error_that_names_it(cli, corrupt, tmp_path, workers):
    archive = images.tar(corrupt, tmp_path / "a.tar")
    line = f"{LINE} --data.root {archive} --data.num_workers {workers} --run_dir {tmp_path}/run"
    result = cli(line)
    assert result.status == 2
    assert f"corrupt image {archive}:train/n01443537/n01443537_" in result.err
    assert "at byte" in result.err
    assert "--data.on_corrupt skip" in result.err
    assert "Traceback" not in result.err
    assert summary(tmp_path / "run")["status"] == "failed"


def test_a_corrupt_image_is_replaced_counted_and_reported(cli, corrupt, tmp_path):
    line = (
        f"{LINE} --data.root {corrupt} --data.num_workers 1 --data.on_corrupt skip --run_dir {tmp_path}/run"
        f"{' ' + NOTE.format(file=tmp_path / 'note')}"
    )
    result = cli(line)
    assert result.status == 0, result.err
    assert result.out.count("corrupt images were replaced by the next ones") == 3
    assert "n01443537_5.JPEG" in result.out
    seen = {int(s) for row in (tmp_path / "note.0").read_text().splitlines() for s in row.split()[2:]}
    assert not seen & {9 + 2, 9 + 5, 9 + 7}


def test_a_corrupt_validation_image_is_never_skipped(cli, tmp_path):
    root = images.tree(tmp_path / "t")
    path = next((root / "val").rglob("*.JPEG"))
    os.truncate(path, 600)
    result = cli(f"{LINE} --data.root {root} --data.on_corrupt skip --run_dir {tmp_path}/run")
    assert result.status == 2
    assert f"corrupt image {path}" in result.err
    assert "skip" not in result.err


def test_a_corrupt_image_of_another_process_is_named_by_the_first(tmp_path):
    """Only rank 1 meets it: the first process would see no more than a closed connection."""
    corrupt = images.tree(tmp_path / "corrupt", train=9)
    met = next(iter(TrainSampler(36, 8, seed=0, rank=1, world_size=2)))
    path = sorted((corrupt / "train").rglob("*.JPEG"))[met]
    os.truncate(path, 700)
    out = run(f"{LINE} {TWO} --data.root {corrupt} --data.num_workers 0 --run_dir {tmp_path}/run", status=2)
    assert "corrupt image" in out
    assert str(path) in out
    assert "Traceback" not in out
    assert not (tmp_path / "run" / "mistake").exists()
