"""metrics.csv over resumes, and with columns that come later."""

import csv
import math

from reslightning.track.metrics_csv import MetricsCSV


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_appended_and_a_resume_goes_on_behind_the_kept_ones(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsCSV(path)
    for epoch in (1, 2, 3):
        first.append({"epoch": epoch, "train/loss": 1 / epoch, "val/n_samples": 359}, step=epoch * 5)
    beginning = path.read_bytes()
    second = MetricsCSV(path)
    second.keep(2)
    second.append({"epoch": 3, "train/loss": 1 / 3, "val/n_samples": 359}, step=15)
    assert path.read_bytes() == beginning
    assert [row["step"] for row in read(path)] == ["5", "10", "15"]
    assert float(read(path)[2]["train/loss"]) == 1 / 3  # every bit


def test_a_torn_last_row_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsCSV(path)
    log.append({"epoch": 1}, step=5)
    with path.open("a") as file:
        file.write("2,1")
    again = MetricsCSV(path)
    again.keep(2)
    assert again.rows == 1
    assert len(read(path)) == 1


def test_columns_that_come_later(tmp_path):
    log = MetricsCSV(tmp_path / "metrics.csv")
    log.append({"epoch": 1}, step=5)
    log.append({"epoch": 2, "mine": math.inf}, step=10)
    assert [row["mine"] for row in read(tmp_path / "metrics.csv")] == ["", "inf"]
