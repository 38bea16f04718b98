"""The worst and the surest images name their files, what they are and what they were taken for."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from PIL import Image

from reslightning.data import Digits, ImageFolder
from reslightning.evaluation import findings
from reslightning.evaluation.findings import write_findings


@pytest.fixture
def sheets(monkeypatch):
    """What is drawn, instead of its pixels."""
    drawn = []

    def sheet(cells, title=None):
        drawn.append((cells, title))
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(findings, "sheet", sheet)
    return drawn


def test_each_image_is_named(sheets, tmp_path):
    data = Digits()
    samples = torch.tensor([[k, 5, 5, 0.9, -math.log(0.9)] for k in range(30)], dtype=torch.float64)
    samples[7] = torch.tensor([7, 3, 5, 0.72, -math.log(0.08)])
    write_findings(samples, data, tmp_path / "evaluations", "resnet20")
    (worst, title), (surest, other) = sheets
    assert title == (
        "resnet20 on Digits: the 24 worst of 30 validation images, those of the largest loss\n"
        "wrong: 1, framed and marked ✗"
    )
    assert other == ("resnet20 on Digits: the 24 surest of 30 validation images, those of the smallest loss\nwrong: 0")
    assert worst[0].lines == ["test/7", "true: 3 (8 %)", "taken for: 5 (72 %)"]
    assert worst[0].wrong
    assert (worst[0].picture == data.picture("val", 7)).all()
    assert worst[1].lines[1:] == ["true: 5 (90 %)", "taken for: 5 (90 %)"]
    assert not any(cell.wrong for cell in [*worst[1:], *surest])
    assert len(worst) == len(surest) == 24
    assert worst[0].heat is None
    with (tmp_path / "evaluations" / "val-confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1 + 5][1 + 5] == "29"
    assert rows[1 + 3][1 + 5] == "1"


def test_files_go_by_their_own_names(sheets, tmp_path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (20, 10), (number * 90, 0, 0)).save(tmp_path / part / name / f"{name} {number}.png")
    data = ImageFolder(root=str(tmp_path))
    data.setup()
    samples = torch.tensor([[3.0, 1, 0, 0.6, 0.9]])
    write_findings(samples, data, tmp_path / "evaluations", "resnet18")
    ((cell,), title), _ = sheets
    assert cell.lines == ["dog 1.png", "true: dog (41 %)", "taken for: cat (60 %)"]
    assert cell.wrong
    assert "the 1 worst of 1 validation images" in title
