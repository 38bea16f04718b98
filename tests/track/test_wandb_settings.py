"""W&B's own variables win over defaults, options over variables, and a bad setting costs the upload alone."""

import pytest
import yaml

from reslightning.errors import UserError
from reslightning.track.wandb_settings import VARIABLES, Wandb, place, refused
from tests.conftest import SMALL, summary

KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def _nothing_of_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in (*VARIABLES.values(), "WANDB_DIR", "WANDB_DISABLED", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_what_nobody_chose_is_what_the_variables_say(monkeypatch):
    assert (Wandb().chosen().project, Wandb().chosen().job_type) == ("reslightning", "train")
    for name, variable in VARIABLES.items():
        monkeypatch.setenv(variable, f"its-{name}, b")
    said = {name: f"its-{name}, b" for name in VARIABLES} | {"tags": ["its-tags", "b"]}
    assert vars(Wandb().chosen()) == vars(Wandb(**said))
    given = Wandb(**dict.fromkeys(VARIABLES, "mine") | {"tags": ["mine"]})
    assert given.chosen() == given


@pytest.mark.parametrize(
    ("variable", "value", "mode"),
    [
        ("WANDB_MODE", "dryrun", "offline"),
        ("WANDB_MODE", "run", "online"),
        ("WANDB_MODE", "online", "online"),
        ("WANDB_MODE", "", "offline"),
        ("WANDB_DISABLED", "true", "disabled"),
        ("WANDB_DISABLED", "false", "online"),
        ("WANDB_API_KEY", KEY + "\r", "offline"),
        ("WANDB_API_KEY", KEY + "\n", "offline"),
        ("WANDB_BASE_URL", "nonsense", "offline"),
        ("WANDB_PROJECT", "a/b", "offline"),
        ("WANDB_TAGS", "a," + "x" * 65, "offline"),
        ("WANDB_SILENT", "perhaps", "offline"),
    ],
)
def test_a_key_decides_only_where_nothing_else_does(monkeypatch, variable, value, mode):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert Wandb().chosen().resolved_mode() == "online"
    monkeypatch.setenv(variable, value)
    assert Wandb().chosen().resolved_mode() == mode
    assert Wandb(mode="disabled").chosen().resolved_mode() == "disabled"


@pytest.mark.parametrize("mode", ["shared", "Offline", "of fline"])
def test_a_mode_that_is_none_is_refused(cli, tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    for command in ("fit", "submit --dry-run -- fit"):
        result = cli(f"{command} --run_dir run")
        assert result.status == 2
        assert f"WANDB_MODE={mode} is not a mode" in result.err
    assert not list(tmp_path.iterdir())
    assert "is not a mode" in cli("doctor").out
    assert Wandb(mode="offline").resolved_mode() == "offline"
    with pytest.raises(UserError, match="not a mode"):
        Wandb().resolved_mode()


def test_variables_reach_the_run_and_flags_win(cli, tmp_path, monkeypatch):
    for variable, value in (("PROJECT", "theirs"), ("NAME", "night"), ("TAGS", "a,b"), ("DIR", "elsewhere")):
        monkeypatch.setenv(f"WANDB_{variable}", value)
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    line = f"fit {SMALL} --trainer.max_epochs 1 --trainer.limit_train_batches 1 --run_dir run"
    assert cli(line.replace("--wandb.mode disabled", "--wandb.name mine")).status == 0
    wandb = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["wandb"]
    assert (wandb["project"], wandb["name"], wandb["tags"]) == ("theirs", "mine", ["a", "b"])
    segment = summary(tmp_path / "run")["segments"][0]
    assert (segment["wandb"], segment["wandb_dir"]) == ("offline", str(tmp_path / "elsewhere"))
    assert not (tmp_path / "run" / "wandb").exists()
    (recording,) = tmp_path.glob("elsewhere/wandb/offline-run-*/*.wandb")
    content = recording.read_bytes()
    assert b"theirs" in content
    assert b"mine" in content
    assert b"night" not in content
    # What lies elsewhere is found, too.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert "cannot be reached" in cli("sync run").err


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("WANDB_API_KEY", KEY + "\r", "WANDB_API_KEY"),
        ("WANDB_MODE", "", "WANDB_MODE"),
        ("WANDB_PROJECT", "a/b", "wandb.project"),
    ],
)
def test_a_bad_setting_is_named_and_the_run_is_recorded_offline(cli, tmp_path, monkeypatch, variable, value, named):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv(variable, value)
    line = f"fit {SMALL} --trainer.max_epochs 1 --trainer.limit_train_batches 1 --run_dir run"
    with pytest.warns(UserWarning, match=f"W&B refuses {named}.*recorded offline"):
        assert cli(line.replace("--wandb.mode disabled", "")).status == 0
    segment = summary(tmp_path / "run")["segments"][0]
    assert (segment["wandb"], segment["recorded"]) == ("offline", True)
    assert list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
    assert named in cli("doctor").out


@pytest.mark.parametrize(
    ("variable", "value"), [("WANDB_API_KEY", KEY + "\n"), ("WANDB_BASE_URL", "nonsense"), ("WANDB_SILENT", "perhaps")]
)
def test_sync_names_a_setting_that_w_and_b_refuses(cli, tmp_path, monkeypatch, variable, value):
    run = tmp_path / "run"
    run.mkdir()
    (run / "summary.json").write_text('{"format": 1, "run_id": "x", "status": "finished"}')
    (run / "config.yaml").write_text("model: {arch: resnet8}\n")
    monkeypatch.setenv(variable, value)
    result = cli("sync run")
    assert result.status == 2
    assert f"W&B refuses {variable}" in result.err
    assert KEY not in result.err
    assert variable in cli("doctor").out


def test_options_that_w_and_b_refuses_are_left_out():
    options = Wandb(project="a:b", entity="mine", tags=["good", "x" * 65])
    assert set(refused(options)) == {"wandb.project", "wandb.tags"}
    assert options.acceptable() == Wandb(project="reslightning", entity="mine", tags=["good"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="WANDB_DIR=.* cannot be written"):
        assert place(tmp_path) == tmp_path.resolve()
