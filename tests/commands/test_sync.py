"""sync uploads every epoch once, from recordings where they are whole and else from metrics.csv."""

import json
import math
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import OPTIONS, SMALL, kill_behind, process, rows
from tests.wandb_server import serving


def test_sync_uploads_a_run_once(cli, tmp_path, monkeypatch):
    """To a stand-in for the server, from an offline run in a folder whose name has an error in it."""
    line = f"fit {SMALL} --trainer.max_epochs 2 --run_dir 'error failed/run'".replace("disabled", "offline")
    line += " --trainer.callbacks+=GradientFlow --trainer.callbacks.every_n_steps 2"
    assert cli(f"{line} --wandb.group night --wandb.tags '[a, b]' --wandb.notes words").status == 0
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for _ in range(2):  # what is uploaded already stays as it is
            result = cli("sync 'error failed'")
            assert result.status == 0, result.out
            assert "error failed/run: 1 segments uploaded" in result.out
            ((name, run),) = server.runs.items()
            assert [row["epoch"] for row in run.rows()] == [1, 2]
            assert [row["trainer/global_step"] for row in run.rows()] == [5, 10]
    assert run.exits == [0]
    made = {key: run.created[key] for key in ("displayName", "groupName", "tags", "notes", "jobType", "project")}
    assert made == {
        **{"displayName": "run", "groupName": "night", "tags": ["a", "b"], "notes": "words"},
        **{"jobType": "train", "project": "reslightning"},
    }
    facts = json.loads(Path("error failed/run/summary.json").read_text())
    assert name == facts["run_id"]
    assert run.summary["last/top1"] == facts["metrics"]["val/top1"]
    assert run.summary["best/top1"] == facts["best"]["val/top1"]
    accuracy, low, high = (run.summary[f"result/top1{ending}"] for ending in ("", "_low", "_high"))
    assert accuracy == facts["metrics"]["val/top1"]
    for bound in (low, high):  # Wilson's: where the accuracy is 1.96 standard deviations away
        assert abs(accuracy - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 359), rel=1e-6)
    assert low < accuracy < high
    assert run.summary["run"]["segments"][0]["to_step"] == 10
    assert run.config["run"]["value"]["arch"] == "resnet8"
    assert any("val/worst" in file for file in run.files)
    assert sum("val/surest" in file for file in run.files) == 1
    assert sum("gradients" in file for file in run.files) == 1
    assert sum("val/confusion" in file for file in run.files) == 1
    plot = run.config["_wandb"]["value"]["visualize"]["val/confusion"]
    assert plot["panel_config"]["panelDefId"] == "wandb/confusion_matrix/v1"
    assert not Path("wandb").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "modes",
    [("online",) * 3, ("offline",) * 3, ("online", "offline", "offline"), ("offline", "online", "offline")],
    ids="-".join,
)
def test_a_run_killed_twice_is_one_run_on_the_server(tmp_path, monkeypatch, modes):
    """Real processes, kill -9, W&B's own client: each epoch is there once, in order, and the key in no file."""
    run, key = tmp_path / "run", "5ec4e7" * 6 + "abcd"
    lines = [f"fit {OPTIONS} --trainer.max_epochs 12 --run_dir {run}".replace("disabled", mode) for mode in modes]
    monkeypatch.setenv("WANDB_API_KEY", key)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        kill_behind(3, lines[0], run)
        kill_behind(7, lines[1], run)
        for command in (lines[2], f"sync {run}", f"sync {run}"):
            assert not server.runs or "online" in modes  # until it is synced
            child = process(command)
            out, _ = child.communicate(timeout=200)
            assert child.returncode == 0, out
            modes = ("online",)
        ((name, there),) = server.runs.items()
    assert name == json.loads((run / "summary.json").read_text())["run_id"]
    assert_complete(there, run, 12)
    assert there.exits[-1] == 0
    for path in tmp_path.glob("run/**/*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


def assert_complete(there, run, epochs):
    """W&B has every epoch of metrics.csv once, in order, with the same values."""
    assert [row["epoch"] for row in there.rows()] == list(range(1, epochs + 1))
    shares = [row["val/top1"] for row in there.rows()]
    assert shares == [float(row["val/top1"]) for row in rows(run) if row["epoch"]]
    assert there.summary["last/top1"] == shares[-1]
    assert any("val/worst" in file for file in there.files)


class Sent:
    """A W&B run that takes two epochs."""

    def catch_up(self, history):
        return 2

    def show(self, folder):
        """Of what a finished run found."""

    def finish(self, status, summary):
        return True


STOP = "--trainer.callbacks+=tests.observers.Strike --trainer.callbacks.mark {mark} --trainer.callbacks.step {step}"


@pytest.mark.parametrize(
    ("segments", "route"),
    [
        ([{"wandb": "offline", "recorded": True}] * 2, "recordings"),
        ([{"wandb": "offline", "recorded": True}, {"from_step": 5, "to_step": 5}], "recordings"),
        ([{"wandb": "offline", "recorded": True}, {"from_step": 5, "to_step": 9}], "rows"),  # W&B was disabled
        ([{"wandb": "offline"}, {"wandb": "offline", "recorded": True}], "rows"),  # killed
        ([{"wandb": "online", "recorded": True}, {"wandb": "offline", "recorded": True}], "rows"),
        ([{"wandb": "online", "recorded": True}, {"from_step": 5, "to_step": 9}], "rows"),
        ([{"wandb": "online"}], "rows"),
        ([{"wandb": "online", "recorded": True}], "recorded online"),
        ([{"from_step": 0, "to_step": 9}], "nothing was recorded offline"),
    ],
)
def test_what_sync_uploads(cli, tmp_path, monkeypatch, segments, route):
    run, uploads = tmp_path / "run", []
    for number, part in enumerate(segments):
        if part.get("wandb") == "offline":
            (run / "wandb" / f"offline-run-{number}-id").mkdir(parents=True)
            (run / "wandb" / f"offline-run-{number}-id" / "run-id.wandb").write_bytes(b"more than its header")
    run.mkdir(exist_ok=True)
    facts = {"run_id": "id", "arch": "resnet8", "status": "finished", "segments": segments}
    (run / "summary.json").write_text(json.dumps(facts))
    (run / "config.yaml").write_text("wandb: {}")

    def upload(command, **_):
        uploads.append([Path(word).name for word in command if "offline-run" in word])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", upload)
    monkeypatch.setattr("reslightning.track.wandb_logger.begin_wandb", lambda *args, **_: Sent())
    server = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
    recordings = sorted(path.name for path in run.glob("wandb/offline-run-*"))
    routes = {"recordings": f"{len(recordings)} segments uploaded", "rows": "2 epochs sent from metrics.csv"}
    with server:
        assert cli("sync run").out == f"run: {routes.get(route, route)}\n"
        assert uploads == ([recordings] if route == "recordings" else [])
        for file in run.glob("wandb/*/run-id.wandb"):  # the upload of one was interrupted
            file.with_suffix(".wandb.syncstate").touch()
        if route == "recordings":
            assert cli("sync run").out == f"run: {routes['rows']}\n"


@pytest.mark.slow
@pytest.mark.parametrize("between", ["an interrupted upload", "a segment without W&B"])
def test_sync_sends_what_recordings_do_not_have(cli, tmp_path, monkeypatch, between):
    """Two whole recordings, of which the upload of one was begun, or between which W&B was disabled."""
    run = tmp_path / "run"
    stops = " ".join(STOP.format(mark=tmp_path / str(step), step=step) for step in (6, 11))
    line = f"fit {OPTIONS} --trainer.max_epochs 4 --run_dir {run} {stops}".replace("disabled", "offline")
    middle = line.replace("offline", "disabled") if between == "a segment without W&B" else line
    assert [cli(command).status for command in (line, middle, line)] == [75, 75, 0]
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)

        def sync() -> str:
            out, _ = process(f"sync {run}").communicate(timeout=100)
            return out.splitlines()[-1].partition(": ")[2]

        if between == "an interrupted upload":
            assert sync() == "3 segments uploaded"
            for done in run.glob("wandb/*/*.synced"):  # as if it had been ended in between
                done.unlink()
        for sent in (0 if between == "an interrupted upload" else 4, 0):
            assert sync() == f"{sent} epochs sent from metrics.csv"
        (there,) = server.runs.values()
    assert_complete(there, run, 4)


@pytest.mark.slow
def test_a_server_that_goes_away(tmp_path, monkeypatch):
    """What it did not get is sent by sync, also where another callback logs rows of its own."""
    run = tmp_path / "run"
    line = f"fit {OPTIONS} --trainer.max_epochs 8 --run_dir {run} --trainer.callbacks LearningRateMonitor"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        child = process(f"{line} --trainer.log_every_n_steps 1".replace("disabled", "online"))
        while not (run / "metrics.csv").exists():
            assert child.poll() is None, child.communicate()
            time.sleep(0.05)
    out, _ = child.communicate(timeout=200)
    assert child.returncode == 0, out
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        child = process(f"sync {run}")
        out, _ = child.communicate(timeout=100)
        assert child.returncode == 0, out
        assert "8 epochs sent from metrics.csv" in out
        assert_complete(server.runs[json.loads((run / "summary.json").read_text())["run_id"]], run, 8)


def test_sync_without_a_server_says_so_and_loses_nothing(cli, tmp_path, monkeypatch):
    line = f"fit {SMALL} --trainer.max_epochs 1 --run_dir run".replace("disabled", "offline")
    assert cli(line).status == 0
    (file,) = tmp_path.glob("run/wandb/offline-run-*/*.wandb")
    before = file.read_bytes()
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    started = time.monotonic()
    result = cli("sync run")
    assert result.status == 1
    assert "W&B's server 127.0.0.1 cannot be reached" in result.err
    assert "nothing is lost" in result.err
    assert time.monotonic() - started < 10
    assert file.read_bytes() == before
    assert "no runs at" in cli("sync nowhere").err


def test_sync_uploads_segments_in_order_and_bounds_what_hangs(cli, tmp_path, monkeypatch):
    """A server that accepts and never answers: each run's share of time is bounded, and each is named."""
    from reslightning.commands.sync import offline_segments

    for run, moments in (("a", ("20260102_000000", "20260101_000000", "20260103_000000")), ("b", ())):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "summary.json").write_text("{}")
        for moment in moments:
            folder = tmp_path / "runs" / run / "wandb" / f"offline-run-{moment}-id"
            folder.mkdir(parents=True)
            (folder / "run-id.wandb").write_bytes(b"8 bytes.")
    found = [path.name.split("-")[2] for path in offline_segments(tmp_path / "runs" / "a")]
    assert found == ["20260101_000000", "20260102_000000", "20260103_000000"]
    for file in tmp_path.glob("runs/a/wandb/*/*"):  # what a process leaves that is killed at once
        file.write_bytes(b"7 bytes")
    assert cli(f"fit {SMALL} --trainer.max_epochs 1 --run_dir runs/c".replace("disabled", "offline")).status == 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        result = cli("sync runs --timeout 5")
    assert result.status == 1
    assert "runs/a: nothing was recorded offline" in result.out
    assert "runs/b: nothing was recorded offline" in result.out
    assert "runs/c: FAILED: no answer from the server for 5 s" in result.out
    assert "1 of 3 runs were not uploaded" in result.out
