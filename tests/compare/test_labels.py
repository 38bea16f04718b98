"""What curves are called: by what differs between them, with its key, and no more."""

from __future__ import annotations

from pathlib import Path

from reslightning.compare.groups import Group, Table
from reslightning.compare.labels import heading, labels
from reslightning.run.record import RunRecord
from tests.commands.test_compare import made

SHARED = {"data": "CIFAR10", "data.batch_size": 128, "model.optim.momentum": 0.9}


def run(name: str = "cifar10-resnet20-0-a1b2c3d4", *, arch: str = "resnet20", seed: int = 0, **facts) -> Group:
    """Return a row of one run, with the options that are given beside those that all share."""
    options = SHARED | {"model.arch": arch, "seed_everything": seed} | facts.pop("options", {})
    return Group([RunRecord(name, name, {"arch": arch, "seed": seed, "options": options, **facts}, [])])


def named(*groups: Group, title: str = "CIFAR10, center") -> list[str]:
    return labels([Table(title, groups)])


def test_labels_say_what_differs():
    rates = [{"model.optim.lr": rate} for rate in (0.05, 0.1)]
    assert named(run(arch="resnet56", options=rates[0]), run(options=rates[1])) == [
        "arch resnet56, lr 0.05",
        "arch resnet20, lr 0.1",
    ]
    assert named(run(options=rates[0]), run(options=rates[1])) == ["lr 0.05", "lr 0.1"]
    assert named(run(seed=0), run(seed=1)) == ["seed 0", "seed 1"]
    assert named(run(seed=3)) == ["arch resnet20"]
    assert named(run(options={"data.mixup": 0.2}), run()) == ["mixup 0.2", "mixup none"]


def test_keys_are_short_where_that_is_clear():
    networks = [{"model.optim.name": name, "model.schedule.name": "step"} for name in ("sgd", "lamb")]
    assert named(*(run(options=options) for options in networks)) == ["optim sgd", "optim lamb"]
    both = [{"model.flip": value, "data.flip": value} for value in (1, 2)]
    assert named(*(run(options=options) for options in both)) == [
        "data.flip 1, model.flip 1",
        "data.flip 2, model.flip 2",
    ]


def test_runs_of_the_same_options_are_told_apart():
    starts = [{"segments": [{"started": f"2015-12-10T08:3{k}:00+00:00"}]} for k in range(2)]
    assert named(*(run(**facts) for facts in starts)) == [
        "arch resnet20, started 2015-12-10 08:30:00",
        "arch resnet20, started 2015-12-10 08:31:00",
    ]
    assert named(run("one"), run("other"), run(seed=1)) == ["seed 0, one", "seed 0, other", "seed 1"]
    assert named(Group([RunRecord("cut", "cut", {}, [])]), run()) == ["cut", "arch resnet20"]


def test_rows_of_several_tables_say_of_which():
    groups = [run(options={"data": name}) for name in ("CIFAR10", "CIFAR100")]
    tables = [
        Table(f"{name}, center (5 images)", [group])
        for name, group in zip(("CIFAR10", "CIFAR100"), groups, strict=True)
    ]
    assert labels(tables) == ["arch resnet20 (CIFAR10)", "arch resnet20 (CIFAR100)"]
    assert heading(tables) == ""
    kinds = [Table("A, center", [Group(run().runs, {"arch": "x"}), Group(run().runs, {"arch": "y"})])]
    assert labels([*kinds, Table("unknown: not ranked", [run("a", seed=1), run("b", seed=2)])]) == [
        "arch x (A, center)",
        "arch y (A, center)",
        "seed 1 (unknown: not ranked)",
        "seed 2 (unknown: not ranked)",
    ]


def test_groups_are_called_by_what_they_are_grouped_by():
    groups = [Group(run().runs, {"arch": "resnet20", "model.optim.lr": rate}) for rate in ("0.1", "none")]
    assert named(*groups) == ["lr 0.1", "lr none"]
    assert named(groups[0]) == ["arch resnet20"]


def test_what_all_share_is_the_heading():
    assert heading([Table("CIFAR10, center", [run(seed=0), run(seed=1)])]) == "resnet20 on CIFAR10, center"
    assert heading([Table("CIFAR10, center", [run(), run(arch="plain20")])]) == "CIFAR10, center"


def test_the_page_calls_curves_the_same(cli, tmp_path):
    for arch, rate in (("resnet20", 0.1), ("resnet56", 0.05)):
        for seed in range(2):
            made(
                tmp_path / "runs",
                f"cifar10-{arch}-{seed}-a1b2c3d4",
                arch=arch,
                seed=seed,
                options={"model.arch": arch, "model.optim.lr": rate, "seed_everything": seed},
            )
    assert cli("compare runs --html page.html").status == 0
    page = Path("page.html").read_text()
    for label in ("arch resnet20, lr 0.1, seed 0", "arch resnet56, lr 0.05, seed 1"):
        assert label in page
    assert cli("compare runs --by arch --html page.html").status == 0
    page = Path("page.html").read_text()
    assert "arch resnet56" in page
    assert "Thin: training, bold: validation, band: ± standard deviation over 2 runs." in page
