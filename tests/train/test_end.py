"""The end of a run: its last epoch is validated, and what fails behind it is made by the same command."""

import csv
import os
import stat
import threading
from pathlib import Path

import pytest

from tests.conftest import SMALL, assert_same_result, rows, summary
from tests.images import tree
from tests.train.test_preemption import STRIKE

TINY = f"{SMALL} --trainer.limit_train_batches 2"
SIZES = "--model.arch resnet8 --data.batch_size 8 --data.train_size 16 --data.eval_size 16 --data.eval_resize 16"


@pytest.mark.parametrize(
    ("every", "epochs", "validated"), [(2, 3, [2, 3]), (3, 4, [3, 4]), (9, 2, [2]), (2, 2, [2]), (4, 1, [1])]
)
def test_the_last_epoch_is_validated(cli, tmp_path, every, epochs, validated):
    line = f"fit {TINY} --trainer.max_epochs {epochs} --trainer.check_val_every_n_epoch {every} --run_dir run"
    result = cli(line)
    assert result.status == 0
    found = rows(tmp_path / "run")
    assert [int(row["epoch"]) for row in found if row["val/top1"]] == validated
    assert summary(tmp_path / "run")["metrics"]["val/top1"] == float(found[-1]["val/top1"])
    assert (tmp_path / "run" / "evaluations" / "val-confusion.csv").is_file()


@pytest.mark.parametrize(("step", "place"), [(4, "train"), (5, "train"), (4, "epoch end")])
def test_the_last_epoch_is_validated_after_a_stop(cli, tmp_path, step, place):
    line = f"fit {TINY} --trainer.max_epochs 3 --trainer.check_val_every_n_epoch 2 --run_dir"
    assert cli(f"{line} reference").status == 0
    strike = STRIKE.format(mark=tmp_path / "mark", step=step, place=place, name="SIGTERM")
    assert cli(f"{line} run {strike}").status == 75
    assert cli(f"{line} run {strike}").status == 0
    assert_same_result(tmp_path / "run", tmp_path / "reference")


def test_an_epoch_that_a_callback_ends_training_in_is_validated(cli, tmp_path):
    stop = "--trainer.callbacks+=tests.observers.StopAt --trainer.callbacks.step 3"
    line = f"fit {TINY} --trainer.max_epochs 5 --trainer.check_val_every_n_epoch 4 --run_dir run {stop}"
    assert cli(line).status == 0
    first, second = rows(tmp_path / "run")
    assert (first["val/top1"], bool(second["val/top1"])) == ("", True)


def test_a_class_name_that_is_no_utf_8(cli, tmp_path):
    name = b"caf\xe9 \xff\xfe\x80\nb"
    data = tree(tmp_path / "data", classes=("apple", os.fsdecode(name)))
    line = f"fit --data ImageFolder --data.root {data} {SIZES} --trainer.max_epochs 1 --run_dir run"
    result = cli(line)
    assert result.status == 0, result.err
    assert summary(tmp_path / "run")["status"] == "finished"
    for command, file in (("validate", "val-confusion.csv"), ("predict", "test-predictions.csv")):
        assert cli(f"{command} --run_dir run").status == 0
        with (tmp_path / "run" / "evaluations" / file).open(newline="") as lines:
            header = next(csv.reader(lines))
        assert set(header) > {"apple", name.decode(errors="surrogateescape").encode(errors="backslashreplace").decode()}


class Broken:
    """What goes wrong behind the last epoch, in turn."""

    @staticmethod
    def folder(run: Path, mend: bool) -> None:
        if mend:
            (run / "evaluations").unlink()
        else:
            run.mkdir()
            (run / "evaluations").write_text("")

    @staticmethod
    def confusion(run: Path, mend: bool) -> None:
        if mend:
            (run / "evaluations" / "val-confusion.csv").rmdir()
        else:
            (run / "evaluations" / "val-confusion.csv").mkdir(parents=True)

    @staticmethod
    def picture(run: Path, mend: bool) -> None:
        if mend:
            (run / "evaluations" / "val-worst.png").rmdir()
        else:
            (run / "evaluations" / "val-worst.png").mkdir(parents=True)


@pytest.mark.parametrize("what", ["folder", "confusion", "picture"])
def test_what_fails_behind_the_last_epoch_is_made_by_the_same_command(cli, tmp_path, what):
    line = f"fit {TINY} --model.ema_decay 0.9 --trainer.max_epochs 1 --run_dir"
    assert cli(f"{line} reference").status == 0
    getattr(Broken, what)(tmp_path / "run", False)
    result = cli(f"{line} run")
    assert result.status == 1
    assert "findings could not be made" in result.err
    assert "Traceback" not in result.err
    assert summary(tmp_path / "run")["status"] == "failed"
    assert summary(tmp_path / "run")["diverged"] is False
    getattr(Broken, what)(tmp_path / "run", True)
    assert cli(f"{line} run").status == 0
    assert summary(tmp_path / "run")["status"] == "finished"
    for file in ("val-confusion.csv", "val-worst.png"):
        one, other = (tmp_path / name / "evaluations" / file for name in ("run", "reference"))
        assert one.read_bytes() == other.read_bytes()
    assert_same_result(tmp_path / "run", tmp_path / "reference")


def test_predict_writes_to_links_and_devices_and_does_not_replace_them(cli, finished, tmp_path):
    line = f"predict --run_dir {finished(cli)} --output"
    assert cli(f"{line} plain.csv").status == 0
    expected = Path("plain.csv").read_bytes()
    Path("there").mkdir()
    Path("there/old.csv").write_text("old")
    Path("link.csv").symlink_to("there/old.csv")
    Path("dangling.csv").symlink_to("there/new.csv")
    for link, file in (("link.csv", "there/old.csv"), ("dangling.csv", "there/new.csv")):
        assert cli(f"{line} {link}").status == 0
        assert Path(link).is_symlink()
        assert Path(file).read_bytes() == expected
    assert cli(f"{line} /dev/null").status == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    os.mkfifo("pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_bytes()))
    reader.start()
    assert cli(f"{line} pipe").status == 0
    reader.join()
    assert read == [expected]
    assert cli(f"{line} there").status == 2
