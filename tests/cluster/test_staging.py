"""A staged copy is whole or not used, shared, and gone in the end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from reslightning.cluster import staging
from tests.conftest import summary


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source" / "packed.data"
    folder.mkdir(parents=True)
    for name in ("a.tar", "b.tar"):
        (folder / name).write_bytes(os.urandom(3_000_000))
    return folder


def same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in ("a.tar", "b.tar"))


def test_copy_and_release(source, tmp_path):
    copy = staging.stage(source, tmp_path / "local")
    assert copy != source
    assert same(copy, source)
    assert staging.stage(source, tmp_path / "local") == copy
    staging.release()
    assert list((tmp_path / "local").iterdir()) == []


def test_a_changed_source_is_copied_again(source, tmp_path):
    first = staging.stage(source, tmp_path / "local")
    (source / "a.tar").write_bytes(b"changed")
    second = staging.stage(source, tmp_path / "local")
    assert first != second
    assert same(second, source)
    staging.release()


def test_no_room(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    assert staging.stage(source, tmp_path / "local") == source
    assert "the copy needs 6.3 MB, and 1.0 MB are free; the data is read from" in capsys.readouterr().err
    staging.release()
    assert not list(tmp_path.glob("local/**/packed*"))


def test_a_copy_of_the_wrong_size_is_not_used(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "copyfile", lambda there, here: Path(here).write_bytes(b"half"))
    assert staging.stage(source, tmp_path / "local") == source
    assert "the copy of packed.data/a.tar has 4 of 3,000,000 bytes" in capsys.readouterr().err


def _use(source, to, report, slow, done):
    """Stage, say what was found, and let go when told to; a slow one waits within the copy."""
    if slow:
        real = shutil.copyfile

        def copyfile(there, here):
            real(there, here)
            report.put("copying")
            time.sleep(60)

        shutil.copyfile = copyfile
    copy = staging.stage(source, to)
    report.put((copy != source, same(copy, source)))
    done.wait(60)
    staging.release()


def test_three_processes_and_one_is_killed_in_the_copy(source, tmp_path):
    fork = multiprocessing.get_context("fork")
    report, done, local = fork.Queue(), fork.Event(), tmp_path / "local"
    killed = fork.Process(target=_use, args=(source, local, report, True, done))
    killed.start()
    assert report.get(timeout=20) == "copying"
    others = [fork.Process(target=_use, args=(source, local, report, False, done)) for _ in range(2)]
    for process in others:
        process.start()
    time.sleep(0.3)
    assert report.empty()  # they wait for the copy
    os.kill(killed.pid, signal.SIGKILL)
    assert [report.get(timeout=20) for _ in others] == [(True, True)] * 2
    copies = [path for path in local.glob("*/*") if path.is_dir()]
    assert len(copies) == 1  # shared
    done.set()
    for process in [killed, *others]:
        process.join(20)
    assert list(local.iterdir()) == []


def test_what_a_killed_process_left_is_swept(source, tmp_path):
    fork = multiprocessing.get_context("fork")
    report, done, local = fork.Queue(), fork.Event(), tmp_path / "local"
    killed = fork.Process(target=_use, args=(source, local, report, False, done))
    killed.start()
    assert report.get(timeout=20) == (True, True)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert len([path for path in local.glob("*/*") if path.is_dir()]) == 1
    (source / "a.tar").write_bytes(b"changed")
    staging.stage(source, local)
    assert len([path for path in local.glob("*/*") if path.is_dir()]) == 1
    staging.release()
    assert list(local.iterdir()) == []


def test_training_reads_the_copy(cli, cifar_root, tmp_path, monkeypatch):
    """Each file is copied once, and gone from its source when training begins."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "local"))
    source = tmp_path / "source"
    for file in sorted(cifar_root.rglob("*.bin")):
        link = source / file.relative_to(cifar_root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    files = len(list(source.rglob("*.bin")))
    copied = []
    real = shutil.copystat
    monkeypatch.setattr(shutil, "copystat", lambda *pair: (real(*pair), copied.append(Path(pair[0])), pair[0].unlink()))
    line = (
        f"fit --data CIFAR10 --data.root {source} --data.stage_to $TMPDIR --model.arch resnet8 "
        "--wandb.mode disabled --trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1 "
        "--run_dir run"
    )
    result = cli(line)
    assert result.status == 0, result.err
    assert len(copied) == len(set(copied)) == files == 6
    assert summary(Path("run"))["status"] == "finished"
    assert list((tmp_path / "local").iterdir()) == []
    refused = cli(line.replace("$TMPDIR", "$NOWHERE").replace(" run", " other"))
    assert refused.status == 2
    assert "NOWHERE" in refused.err
