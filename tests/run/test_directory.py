"""Summary and segments of a run directory."""

import json

from reslightning.cluster.allocation import job_id
from reslightning.run.directory import Run
from reslightning.run.provenance import code_version


def test_a_summary_survives_segments_and_says_null_for_not_a_number(tmp_path):
    run = Run(tmp_path / "run")
    run.open()
    run.start({"arch": "resnet20"}, world_size=1, step=0)
    run.update(global_step=7, metrics={"train/loss": float("nan")})
    run.close()
    again = Run(tmp_path / "run")
    again.open()
    again.start({"arch": "resnet20"}, world_size=2, step=7)
    again.update(global_step=9, status="finished")
    again.close()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"] == {"train/loss": None}
    assert [(s["from_step"], s["to_step"], s["world_size"]) for s in summary["segments"]] == [(0, 7, 1), (7, 9, 2)]
    assert summary["run_id"] == run.summary["run_id"]
    assert summary["status"] == "finished"
    assert not list((tmp_path / "run").glob(".*"))


def test_segments_say_which_job_and_code(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    assert job_id() == "18"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job_id() == "17_3"
    commit, dirty = code_version()
    assert commit is None or (len(commit) == 40 and isinstance(dirty, bool))
