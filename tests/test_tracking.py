"""metrics.csv over resumes, and W&B that never asks and never fails a run."""

import csv
import math
import time

import pytest

from reslightning.tracking import FINISH_TIMEOUT, INIT_TIMEOUT, MetricsCSV, SafeWandbLogger, Wandb, start_wandb
from tests.conftest import SMALL


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
