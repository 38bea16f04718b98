"""metrics.csv over resumes, and W&B that never asks and never fails a run."""

import csv
import json
import math
import socket
import time
from pathlib import Path

import pytest

from reslightning.track.metrics_csv import MetricsCSV
from reslightning.track.wandb_logger import FINISH_TIMEOUT, INIT_TIMEOUT, SafeWandbLogger, Wandb, start_wandb
from tests.conftest import SMALL, kill_behind, process
from tests.wandb_server import serving


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_appended_and_a_resume_goes_on_behind_the_kept_ones(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsCSV(path)
    for epoch in (1, 2, 3):
        first.log_metrics({"epoch": epoch, "train/loss": 1 / epoch, "val/n_samples": 359}, step=epoch * 5)
    beginning = path.read_bytes()
    second = MetricsCSV(path)
    second.keep(2)
    second.log_metrics({"epoch": 3, "train/loss": 1 / 3, "val/n_samples": 359}, step=15)
    assert path.read_bytes() == beginning
    assert [row["step"] for row in read(path)] == ["5", "10", "15"]
    assert float(read(path)[2]["train/loss"]) == 1 / 3  # every bit


def test_a_torn_last_row_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsCSV(path)
    log.log_metrics({"epoch": 1}, step=5)
    with path.open("a") as file:
        file.write("2,1")
    again = MetricsCSV(path)
    again.keep(2)
    assert again.rows == 1
    assert len(read(path)) == 1


def test_columns_that_come_later(tmp_path):
    log = MetricsCSV(tmp_path / "metrics.csv")
    log.log_metrics({"epoch": 1}, step=5)
    log.log_metrics({"epoch": 2, "mine": math.inf}, step=10)
    assert [row["mine"] for row in read(tmp_path / "metrics.csv")] == ["", "inf"]


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_auto_is_online_only_with_a_key(no_credentials, monkeypatch):
    assert Wandb().resolved_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert Wandb().resolved_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert Wandb().resolved_mode() == "disabled"
    assert Wandb(mode="offline").resolved_mode() == "offline"


def test_online_without_a_key_is_offline_and_never_asks(no_credentials):
    with pytest.warns(UserWarning, match="no W&B key"):
        assert Wandb(mode="online").resolved_mode() == "offline"


def test_a_key_in_netrc_is_found(no_credentials, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password " + "x" * 40 + "\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert Wandb().resolved_mode() == "online"


def test_disabled_starts_nothing(tmp_path):
    assert start_wandb(Wandb(), "disabled", tmp_path, "id", {}) == (None, "disabled")
    assert not list(tmp_path.iterdir())


class Broken:
    def __init__(self):
        self.summary = {}

    def log(self, *args, **kwargs):
        raise ConnectionResetError("gone")

    def finish(self, exit_code):
        raise ConnectionResetError("gone")

    def define_metric(self, *args, **kwargs):
        """W&B's runs have it."""


def test_a_service_that_died_does_not_end_the_training():
    logger = SafeWandbLogger(experiment=Broken())
    with pytest.warns(UserWarning, match="did not take the metrics of step 3"):
        logger.log_metrics({"a": 1.0}, step=3)
    with pytest.warns(UserWarning, match="did not finish"):
        logger.finish(0, {})


@pytest.mark.slow
def test_a_server_that_does_not_answer(cli, tmp_path, monkeypatch):
    """It costs its share of the start and of the end, and no metric; the key is in no file."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    key = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    line = f"fit {SMALL} --trainer.max_epochs 1 --run_dir run".replace("disabled", "online")
    started = time.monotonic()
    with pytest.warns(UserWarning, match="recorded offline"):
        assert cli(line).status == 0
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s in all")
    assert seconds < INIT_TIMEOUT + FINISH_TIMEOUT + 30
    assert len(read(tmp_path / "run" / "metrics.csv")) == 1
    assert list(tmp_path.glob("run/wandb/offline-run-*/run-*.wandb"))
    for path in tmp_path.glob("run/**/*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


def planted(monkeypatch) -> list[bytes]:
    """Plant credentials where tools look for them, and return them."""
    secrets = {name: f"{number}{'5ec4e7' * 7}"[:40] for number, name in enumerate(("key", "token", "cloud", "netrc"))}
    monkeypatch.setenv("WANDB_API_KEY", secrets["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets["cloud"])
    monkeypatch.setenv("HF_TOKEN", secrets["token"] + "x")
    # A remote's address with a token, as git itself sees it in every folder.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "remote.origin.url")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"https://user:{secrets['token']}@127.0.0.1/repository.git")
    return [secret.encode() for secret in secrets.values()]


def test_no_secret_in_any_file(cli, tmp_path, monkeypatch):
    secrets = planted(monkeypatch)
    netrc = tmp_path / "home" / ".netrc"
    netrc.parent.mkdir()
    netrc.write_bytes(b"machine api.wandb.ai login user password " + secrets[3] + b"\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(netrc.parent))
    line = f"{SMALL} --trainer.max_epochs 1".replace("disabled", "offline")
    key = secrets[0].decode()
    for command in ("fit", "submit --dry-run -- fit"):
        for option in ("api_key=" + key, f"tracking_uri=https://me:{key}@127.0.0.1/x"):
            logger = (
                f"--trainer.logger {'CometLogger' if 'api' in option else 'MLFlowLogger'} --trainer.logger.{option}"
            )
            result = cli(f"{command} {line} --run_dir run {logger}")
            assert result.status == 2, option
            assert "is given a credential, which would be written to the run's files" in result.err
            assert key not in result.err
    assert not (tmp_path / "run").exists()
    assert cli(f"fit {line} --run_dir run").status == 0
    assert cli("test --run_dir run").status == 0
    assert cli("compare run --html page.html --plot figure.svg").status == 0
    (tmp_path / "script.sh").write_text(cli(f"submit --dry-run -- fit {line}").out)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != netrc]
    names = {path.name for path in files}
    assert {"config.yaml", "summary.json", "metrics.csv", "last.ckpt", "page.html", "script.sh"} <= names
    assert any(path.suffix == ".wandb" and path.stat().st_size > 1000 for path in files)
    for path in files:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path


def test_a_slurm_job_names_its_part(monkeypatch):
    assert Wandb(tags=["a"], group="mine").in_job(None) == Wandb(tags=["a"], group="mine")
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    monkeypatch.setenv("SLURM_JOB_PARTITION", "public")
    monkeypatch.setenv("SLURM_JOB_NAME", "night")
    assert Wandb(tags=["a"]).in_job(None) == Wandb(tags=["a", "job-18", "public"])
    assert Wandb().in_job("before").group == "before"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert Wandb().in_job(None) == Wandb(tags=["job-17_3", "public"], group="night")
    assert Wandb(group="mine").in_job("before").group == "mine"


def test_sync_uploads_a_run_once(cli, tmp_path, monkeypatch):
    """To a stand-in for the server, from an offline run in a folder whose name has an error in it."""
    line = f"fit {SMALL} --trainer.max_epochs 2 --run_dir 'error failed/run'".replace("disabled", "offline")
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
    assert run.summary["run"]["segments"][0]["to_step"] == 10
    assert run.config["run"]["value"]["arch"] == "resnet8"
    assert any("val/worst" in file for file in run.files)
    assert any("val/confusion" in file for file in run.files)
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
    lines = [f"fit {SMALL} --trainer.max_epochs 12 --run_dir {run}".replace("disabled", mode) for mode in modes]
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
    assert shares == [float(row["val/top1"]) for row in read(run / "metrics.csv") if row["epoch"]]
    assert there.summary["last/top1"] == shares[-1]
    assert any("val/worst" in file for file in there.files)


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
    run = tmp_path / "run"
    for number, part in enumerate(segments):
        if part.get("wandb") == "offline":
            (run / "wandb" / f"offline-run-{number}-id").mkdir(parents=True)
            (run / "wandb" / f"offline-run-{number}-id" / "run-id.wandb").write_bytes(b"more than its header")
    run.mkdir(exist_ok=True)
    facts = {"run_id": "id", "arch": "resnet8", "status": "finished", "segments": segments}
    (run / "summary.json").write_text(json.dumps(facts))
    monkeypatch.setattr("reslightning.commands.sync.wandb_server", lambda: ("here", None))
    monkeypatch.setattr("reslightning.commands.sync._upload", lambda *_: "recordings")
    monkeypatch.setattr("reslightning.commands.sync._send", lambda *_: ("rows", None))
    out = cli("sync run").out
    assert out.startswith("run: FAILED: recordings" if route == "recordings" else f"run: {route}")
    for file in run.glob("wandb/*/run-id.wandb"):  # the upload of one was interrupted
        file.with_suffix(".wandb.syncstate").touch()
    if route == "recordings":
        assert cli("sync run").out == "run: rows\n"


@pytest.mark.slow
@pytest.mark.parametrize("between", ["an interrupted upload", "a segment without W&B"])
def test_sync_sends_what_recordings_do_not_have(cli, tmp_path, monkeypatch, between):
    """Two whole recordings, of which the upload of one was begun, or between which W&B was disabled."""
    run = tmp_path / "run"
    stops = " ".join(STOP.format(mark=tmp_path / str(step), step=step) for step in (6, 11))
    line = f"fit {SMALL} --trainer.max_epochs 4 --run_dir {run} {stops}".replace("disabled", "offline")
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
    line = f"fit {SMALL} --trainer.max_epochs 8 --run_dir {run} --trainer.callbacks LearningRateMonitor"
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
