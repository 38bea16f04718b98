"""Runs that are cut, copied, lost, contradictory or of the wrong kind are named, and not believed."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta

import pytest

from reslightning.errors import UserError
from reslightning.files import read_json, read_rows
from reslightning.run.record import RunRecord
from tests.commands.test_compare import made, records


def test_runs_of_one_name_and_the_same_folder_twice(cli, tmp_path):
    for folder, top1 in (("one", 0.9), ("two", 0.8)):
        made(tmp_path / folder, "run", top1=top1, run_id=folder)
    (tmp_path / "three").symlink_to(tmp_path / "two")
    (tmp_path / "one" / "loop").symlink_to(tmp_path / "one")
    result = cli("compare one two two/run three --format json --html page.html")
    assert [row["run"] for row in json.loads(result.out)] == ["one/run", "two/run"]
    assert result.err == "report written to page.html\n"


def test_a_summary_that_contradicts_its_rows_is_not_believed(cli, tmp_path):
    run = made(tmp_path / "runs", "a", top1=0.9)
    facts = json.loads((run / "summary.json").read_text())
    facts["metrics"]["val/top1"] = facts["best"]["val/top1"] = 0.99
    (run / "summary.json").write_text(json.dumps(facts))
    result = cli("compare runs --columns run,top1 --format json")
    assert json.loads(result.out)[0]["top1"] == pytest.approx(10.0)
    assert "runs/a: summary.json says val/top1=0.99 of epoch 3, metrics.csv 0.9" in result.err
    (run / "metrics.csv").write_text("\n".join((run / "metrics.csv").read_text().splitlines()[:2]) + "\n")
    assert "summary.json is at epoch 3, metrics.csv ends at 1" in cli("compare runs").err


@pytest.mark.parametrize(("best", "said"), [(0.3, "val/top1=0.3"), (0.6, "val/top1=0.6"), (0.9, "epoch=2")])
def test_a_best_value_that_the_rows_do_not_have_is_named(cli, tmp_path, best, said):
    run = made(tmp_path / "runs", "a", top1=0.9)
    facts = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(facts | {"best": {"val/top1": best, "epoch": 2}}))
    assert f"runs/a: summary.json says a best with {said}, metrics.csv" in cli("compare runs").err


def test_lost_runs(cli, tmp_path):
    old = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
    made(tmp_path / "runs", "lost", status="running", heartbeat=old)
    held = made(tmp_path / "runs", "held", status="running", heartbeat=old)
    (held / "lock").touch()
    made(tmp_path / "runs", "fresh", status="running")
    rows = {row["run"]: row for row in records(cli, "runs --columns run,status,heartbeat")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "lost": "lost",
        "held": "running",
        "fresh": "running",
    }
    assert rows["lost"]["heartbeat"] > 3 * 3600 - 5
    assert rows["held"]["heartbeat"] < 60


def test_half_written_and_foreign_folders(cli, tmp_path):
    good = made(tmp_path / "runs", "good")
    for name, content in (("foreign", '{"accuracy": 0.5}'), ("broken", "{"), ("list", "[1, 2]")):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "summary.json").write_text(content)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "metrics.csv").write_text("a,b\n1,2\n")
    result = cli("compare runs")
    assert result.status == 0
    assert good.name in result.out
    assert "4 folders are no runs:" in result.err
    for name in ("foreign", "broken", "list", "other"):
        assert f"skipped runs/{name}" in result.err
    (tmp_path / "runs" / "summary.json").write_text('{"mine": 1}')  # above them all
    killed = tmp_path / "runs" / "killed"
    (killed / "checkpoints").mkdir(parents=True)
    (killed / "lock").write_text("{}")
    result = cli("compare runs")
    assert good.name in result.out
    assert "6 folders are no runs:" in result.err
    assert "skipped runs/killed: no summary.json and no metrics.csv of a run" in result.err
    (tmp_path / "empty").mkdir()
    result = cli("compare empty")
    assert result.status == 2
    assert "nowhere, which does not exist" in cli("compare nowhere").err
    assert "looked for: folders with summary.json or metrics.csv" in result.err


def test_facts_of_the_wrong_kind_are_named(cli, tmp_path):
    run = made(tmp_path / "runs", "a")
    facts = json.loads((run / "summary.json").read_text())
    for name in set(facts) - {"format"}:  # another one is refused
        for odd in (None, "x", 3, [1], {"a": 1}, True, float("nan")):
            (run / "summary.json").write_text(json.dumps(facts | {name: odd}))
            RunRecord.from_directory(run)
            result = cli("compare runs --by arch --diff")
            assert result.status == 0, (name, odd, result.err)
        (run / "summary.json").write_text(json.dumps({key: value for key, value in facts.items() if key != name}))
        assert cli("compare runs").status == 0, name
    for part in (
        {"seconds": "x", "world_size": 1},
        {"world_size": None},
        {"to_step": [1]},
        {},
        {"seconds": 1},
        {"from_step": -1},
    ):
        (run / "summary.json").write_text(json.dumps(facts | {"segments": [part]}))
        assert cli("compare runs --columns run,device_hours").status == 0, part
    for number in ("1e999", "-1e999", "NaN", "9" * 400):
        (run / "summary.json").write_text(
            json.dumps(facts | {"seconds": 0}).replace('"seconds": 0', f'"seconds": {number}')
        )
        assert cli("compare runs").status == 0, number
    deep = "[" * 100_000
    for text in (f'{{"arch": "resnet20", "x": {deep}', json.dumps(facts | {"arch": "\ud800"}), deep):
        (run / "summary.json").write_text(text)
        assert cli("compare runs --plot fig.svg --html page.html").status == 0, text[:40]
    rows = (run / "metrics.csv").read_text()
    for cell in ("inf", "nan", "x" * 200_000, '"' + "x" * 200_000):
        (run / "metrics.csv").write_text(f"{rows}{cell},4\n")
        (run / "summary.json").write_text(json.dumps(facts))
        assert cli("compare runs --plot fig.svg").status == 0, cell[:10]
    (run / "metrics.csv").write_text(rows)
    (run / "summary.json").write_text(json.dumps(facts | {"arch": 3}))
    assert "runs/a: its arch is not what it should be: '3'" in cli("compare runs").err


def test_cuts_lose_only_what_lies_behind_them(tmp_path):
    """Both files cut at 200 random bytes: no error, and what stood before the cut is read."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    run = made(tmp_path, "whole", epochs=20)
    facts, rows = (run / "summary.json").read_bytes(), (run / "metrics.csv").read_bytes()
    everything, _ = read_json(run / "summary.json")
    expected, _ = read_rows(run / "metrics.csv")
    for _ in range(200):
        at, row_at = chance.randrange(len(facts)), chance.randrange(len(rows))
        (run / "summary.json").write_bytes(facts[:at])
        (run / "metrics.csv").write_bytes(rows[:row_at])
        found, whole = read_json(run / "summary.json")
        assert not whole or at >= len(facts) - 1
        lines = facts[:at].decode().splitlines()
        # Every fact on a line of its own that is whole, with the comma that ends it.
        before = {line.split('"')[1] for line in lines if line.startswith('  "') and line.endswith(",")}
        assert before - {"metrics", "best", "options", "segments"} <= found.keys()
        assert all(everything[name] == found[name] for name in before & found.keys())
        kept, _ = read_rows(run / "metrics.csv")
        assert kept == expected[: max(rows[:row_at].count(b"\n") - 1, 0)]
        try:
            record = RunRecord.from_directory(run)
        except UserError:
            assert at < 30
            continue
        assert len(record.history) == len(kept)
        assert record.problems
