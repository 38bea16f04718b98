"""W&B that never asks, never fails a run, and keeps no secret in a file."""

import time

import pytest

from reslightning.track.wandb_logger import FINISH_TIMEOUT, INIT_TIMEOUT, SafeWandbLogger, start_wandb
from reslightning.track.wandb_settings import Wandb
from tests.conftest import OPTIONS, SMALL, rows


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
    line = f"fit {OPTIONS} --trainer.max_epochs 1 --run_dir run".replace("disabled", "online")
    started = time.monotonic()
    with pytest.warns(UserWarning, match="recorded offline"):
        assert cli(line).status == 0
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s in all")
    assert seconds < INIT_TIMEOUT + FINISH_TIMEOUT + 30
    assert len(rows(tmp_path / "run")) == 1
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
