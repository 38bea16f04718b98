"""The columns' table: each is one row, and a measured number over several runs is never a list."""

from __future__ import annotations

import pytest

from reslightning.compare.columns import COLUMNS, DEFAULT, ROWS, RUNS, Over, column
from reslightning.compare.groups import Group, Statistic
from reslightning.compare.tables import text
from reslightning.run.record import RunRecord


def full(k: int) -> RunRecord:
    """A run of which everything is known, and nothing is as of another; what is measured has a fraction."""
    row = {
        **{"epoch": 2.0 + k, "step": 20.0 + k, "val/n_samples": 10_000.0, "gpu_memory": 1.5 + k},
        **{"train/top1": 0.71 + k / 7, "val/top1": 0.72 + k / 7, "val/top5": 0.83 + k / 7},
        **{"train/loss": 0.61 + k / 7, "val/loss": 0.52 + k / 7},
        **{"val/balanced": 0.62 + k / 7, "val/calibration": 0.05 + k / 7},
    }
    summary = {
        **{"arch": ("resnet20", "resnet32")[k], "dataset": "CIFAR10", "protocol": "center", "val_source": "test"},
        **{
            "shortcut": "A",
            "version": "v1",
            "norm": "batch",
            "group": f"g{k}",
            "identity": f"i{k}",
            "run_id": f"r{k}",
            "seed": k,
        },
        **{"status": ("finished", "failed")[k], "epochs": 9, "global_step": 20 + k, "world_size": 1 + k},
        **{"parameters": 270_000 + k, "multiply_adds": 41_000_000 + k, "device": "cuda"},
        **{"seconds": 60.25 + k, "images_per_second": 1000.5 + k, "data_wait": 0.25 + k / 7, "minutes_lost": 0.5 + k},
        "segments": [{"world_size": 1, "seconds": 60.25 + k}] * (1 + k),
        "options": {"model.optim.lr": 0.1 + k / 7},
    }
    return RunRecord(f"run-{k}", f"runs/run-{k}", summary, [row], [], 12.5 + k)


RECORDS = [full(0), full(1)]
each = pytest.mark.parametrize("shown", ROWS, ids=[row.name for row in ROWS])


def test_names_are_there_once():
    assert len(COLUMNS) == len({row.heading for row in ROWS}) == len(ROWS)
    assert RUNS.name not in COLUMNS
    assert set(DEFAULT) < set(COLUMNS)


@each
def test_a_measured_number_is_never_a_list(shown):
    values = [shown.value(run) for run in RECORDS]
    assert None not in values, "let full() record it, so that this test sees what it is"
    if any(isinstance(value, float) and not value.is_integer() for value in values):
        assert shown.over in (Over.MEAN, Over.COST, Over.SHARED)


@each
def test_over_several_runs(shown):
    (first, second), both = (shown.value(run) for run in RECORDS), Group(RECORDS, {"key": "together"}).value(shown)
    words = text(both, shown)
    if shown.over in (Over.MEAN, Over.COST):
        assert isinstance(both, Statistic)
        assert both.mean == pytest.approx((first + second) / 2)
        assert both.deviation == pytest.approx(abs(first - second) / 2**0.5)
        assert " ± " in words
        assert ("95 %" in words) == (shown.over is Over.MEAN)
    elif shown.over is Over.NAME:
        assert both == "together"
    elif first == second:
        assert both == first
    else:
        assert both == (None if shown.over is Over.SHARED else ", ".join(map(str, sorted((first, second)))))
    same = Group(RECORDS[:1] * 2, {"key": "together"}).value(shown)
    assert isinstance(same, Statistic) or same in (first, "together")


def test_how_many_they_are():
    assert [Group(RECORDS[:k]).value(RUNS) for k in (1, 2)] == [1, 2]


def test_options_are_columns_that_stand_as_they_were_given():
    rate = column("model.optim.lr", {"model.optim.lr"})
    assert text(Group(RECORDS).value(rate), rate) == f"0.1, {0.1 + 1 / 7}"
    assert text(Group(RECORDS[1:]).value(rate), rate) == str(0.1 + 1 / 7)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("top1", 9.996, "10.00"),
        ("difference", 0.5, "+0.50"),
        ("seconds", 3661, "1:01:01"),
        ("seconds", 100 * 3600, "4 days"),
        ("parameters", 269_722, "270 k"),
        ("multiply_adds", 4.09e9, "4.09 G"),
        ("parameters", 12, "12"),
        ("images_per_second", 1234.5, "1,234"),
        ("val_loss", 0.123456, "0.1235"),
        ("steps", 123_456, "123456"),
        ("top1", float("nan"), ""),
        ("top1", float("inf"), "inf"),
        ("top1", None, ""),
    ],
)
def test_how_values_are_read(name, value, words):
    assert text(value, COLUMNS[name]) == words
