"""What test said by a protocol stands in the run's place, beside what is published by the same."""

import json
from pathlib import Path

import pytest

from tests.commands.test_compare import made, records

NETWORK = {"arch": "resnet50", "version": "v1", "dataset": "ImageNet", "val_part": "val", "epoch": 3}


def evaluation(run: Path, name: str, top1: float, **facts) -> None:
    """Write an evaluation's file, as test leaves it."""
    (run / "evaluations").mkdir(exist_ok=True)
    record = {
        "format": 1,
        "split": "test",
        "part": "val",
        "protocol": "ten-crop",
        "checkpoint": f"{run}/checkpoints/last.ckpt",
        "dataset": "ImageNet",
        "metrics": {"test/top1": top1, "test/top5": 0.93, "test/loss": 1.0, "test/n_samples": 50_000},
        "differences": [],
    }
    (run / "evaluations" / f"{name}.json").write_text(json.dumps(record | facts))


def test_a_protocol_s_evaluations_stand_beside_what_is_published_by_it(cli, tmp_path):
    runs = tmp_path / "runs"
    first = made(runs, "first", top1=0.75, **NETWORK)
    evaluation(first, "test-ten-crop", 0.77)
    evaluation(first, "test-ten-crop-logits", 0.78, protocol="ten-crop-logits")
    second = made(runs, "second", top1=0.76, **NETWORK | {"val_source": "held-out", "val_part": None})
    evaluation(second, "test-ten-crop", 0.765, checkpoint="best.ckpt")
    evaluation(second, "test-multi-scale", 0.79, protocol="multi-scale")
    made(runs, "third", **NETWORK)
    line = "runs --columns run,top1,top5,of,published,published_source,difference,protocol --protocol"
    found = records(cli, f"{line} ten-crop")
    assert [(row["run"], row["of"]) for row in found] == [("first", "last"), ("second", "best")]
    assert len({row["section"] for row in found}) == 1
    rows = {row["run"]: row for row in found}
    assert {row["published"] for row in found} == {22.85}
    assert rows["first"]["top1"] == pytest.approx(23)
    assert rows["first"]["top5"] == pytest.approx(7)
    assert rows["first"]["difference"] == pytest.approx(0.15)
    assert rows["second"]["difference"] == pytest.approx(0.65)
    assert {row["published_source"] for row in found} == {"arXiv:1512.03385, Table 3"}
    assert [row["published"] for row in records(cli, f"{line} multi-scale")] == [20.74]
    assert [row["published"] for row in records(cli, f"{line} ten-crop-logits")] == [None]
    shown = cli("compare runs --protocol ten-crop")
    assert (
        "ImageNet, ten-crop, validated on its own validation images, which are its test images too (50,000 images)"
        in shown.out
    )
    assert "third has no evaluation by ten-crop" in shown.err


def test_several_evaluations_of_a_run_are_told_apart(cli, tmp_path):
    run = made(tmp_path / "runs", "a", top1=0.75, **NETWORK)
    evaluation(run, "test-ten-crop", 0.77)
    evaluation(run, "test-ten-crop-other-123456", 0.76, differences=["trainer.precision: None there, bf16 given"])
    (run / "evaluations" / "test-ten-crop-cut.json").write_text('{"protocol": "ten-crop", "metrics": {"test/to')
    found = records(cli, "runs --columns run,top1 --protocol ten-crop")
    assert {row["run"] for row in found} == {"a (test-ten-crop)", "a (test-ten-crop-other-123456)"}
    said = cli("compare runs --protocol ten-crop").err
    assert "a (test-ten-crop-other-123456) differs from the run: trainer.precision: None there, bf16 given" in said


def test_recalibrated_networks_stand_in_a_table_of_their_own_beside_the_same_published_results(cli, tmp_path):
    run = made(tmp_path / "runs", "a", top1=0.75, **NETWORK)
    evaluation(run, "test-ten-crop", 0.77)
    evaluation(run, "test-ten-crop-recalibrated-1000", 0.79, recalibrated=1000)
    found = records(cli, "runs --columns top1,published --protocol ten-crop --by arch")
    sections = {row["section"]: (row["top1"], row["published"]) for row in found}
    (name,) = (name for name in sections if "ten-crop with batch statistics over 1,000 training images" in name)
    assert sections.pop(name) == (pytest.approx(21), 22.85)
    assert list(sections.values()) == [(pytest.approx(23), 22.85)]


def test_a_protocol_that_no_run_was_evaluated_by_is_said(cli, tmp_path):
    run = made(tmp_path / "runs", "a", **NETWORK)
    refused = cli("compare runs --protocol ten-crop")
    assert refused.status == 2
    assert "no run has an evaluation by 'ten-crop'\nthere are none by any\nMake one: reslightning test" in refused.err
    evaluation(run, "test-ten-crop", 0.77)
    refused = cli("compare runs --protocol ten-corp")
    assert refused.status == 2
    assert "by 'ten-corp'; did you mean 'ten-crop'?\nthere are: ten-crop" in refused.err


def test_what_test_wrote_is_what_compare_shows(cli, finished):
    run = finished(cli)
    assert cli(f"test --run_dir {run} --protocol flip").status == 0
    record = json.loads((run / "evaluations" / "test-flip.json").read_text())
    (row,) = records(cli, f"{run} --columns top1,val_loss,protocol --protocol flip")
    assert row["top1"] == 100 * (1 - record["metrics"]["test/top1"])
    assert (row["val_loss"], row["protocol"]) == (record["metrics"]["test/loss"], "flip")
