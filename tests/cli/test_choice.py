"""Which run a command means: what determines a result and is no option's value."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from reslightning.cli.choice import find_run
from reslightning.errors import UserError
from reslightning.models.resnet import build_model
from tests import images
from tests.conftest import SMALL, rows, summary

FILES = (
    "fit --data ImageFolder --data.batch_size 8 --data.num_workers 0 --data.train_size 32 --data.eval_resize 32 "
    "--data.eval_size 32 --model.arch resnet8 --wandb.mode disabled --trainer.max_epochs 1 "
)


def folder(place: Path, *classes: str, **options) -> Path:
    return images.tree(place, classes=classes or ("cat", "dog", "emu"), **options)


def runs() -> list[Path]:
    return sorted(Path("runs").iterdir())


def renamed(root: Path) -> Path:
    (folder(root) / "train" / "cat" / "cat_0.JPEG").rename(root / "train" / "cat" / "new.JPEG")
    return root


def relabelled(root: Path) -> Path:
    (folder(root) / "train" / "cat" / "cat_0.JPEG").rename(root / "train" / "dog" / "cat_0.JPEG")
    return root


def same_names(root: Path) -> Path:
    swap(folder(root) / "val")
    return root


@pytest.mark.parametrize("change", [renamed, relabelled, same_names])
def test_data_that_differs_is_another_run(cli, tmp_path, change):
    one = folder(tmp_path / "one")
    assert cli(f"{FILES} --data.root {one}").status == 0
    done = cli(f"{FILES} --data.root {change(tmp_path / 'other')}")
    assert "is a run of the same options on other content" in done.out
    first, second = runs()
    assert second.name == f"{first.name}-{summary(second)['fingerprint']['data']['digest'][:4]}"


def test_other_data_is_named_refused_and_compared_apart(cli, tmp_path):
    one, other = folder(tmp_path / "one"), folder(tmp_path / "other", "ant", "bee", "cow")
    assert cli(f"{FILES} --data.root {one}").status == 0
    (first,) = runs()
    assert "so this one is" in cli(f"{FILES} --data.root {other}").out
    assert "nothing to do" in cli(f"{FILES} --data.root {other}").out
    refused = cli(f"{FILES} --data.root {other} --run_dir {first}")
    assert refused.status == 2
    assert "classes: 3 (cat, dog, emu) there, 3 (ant, bee, cow) given" in refused.err
    assert "another --run_dir" in refused.err
    titles = {row["section"] for row in json.loads(cli("compare runs --format json --columns run,top1").out)}
    assert len(titles) == 2
    assert all(", data " in title for title in titles)


def swap(part: Path) -> None:
    """Exchange the contents of pictures of the same length, or make one another of its length."""
    for path in sorted(part.rglob("*.JPEG")):
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)


def test_the_same_data_elsewhere_is_the_same_run(cli, tmp_path):
    one = folder(tmp_path / "one")
    assert cli(f"{FILES} --data.root {one}").status == 0
    assert cli(f"pack {one} {tmp_path}/packed").status == 0
    moved = shutil.copytree(one, tmp_path / "moved")
    for root in (moved, tmp_path / "packed", images.tar(one, tmp_path / "tar" / "x.tar").parent):
        assert "nothing to do" in cli(f"{FILES} --data.root {root}").out
    assert "nothing to do" in cli(f"{FILES} --data.root {tmp_path}/packed --data.stage_to {tmp_path}/local").out
    assert cli(f"pack {one} {tmp_path}/small --max_side 30").status == 0
    assert "so this one is" in cli(f"{FILES} --data.root {tmp_path}/small").out


def test_data_that_is_swapped_between_stop_and_resume(cli, tmp_path):
    root = folder(tmp_path / "data")
    line = f"{FILES} --data.root {root} --trainer.max_epochs 2 --trainer.callbacks+=tests.observers.Strike "
    line += f"--trainer.callbacks.mark {tmp_path}/mark --trainer.callbacks.step 2"
    assert cli(line).status == 75
    (first,) = runs()
    shutil.rmtree(root)
    folder(root, "ant", "bee", "cow")
    done = cli(line)
    assert done.status == 0
    assert "classes: 3 (cat, dog, emu) there, 3 (ant, bee, cow) given" in done.out
    assert summary(first)["status"] == "preempted"
    assert [summary(run)["global_step"] for run in runs()] == [3, 6]


def test_pictures_added_in_place(cli, tmp_path):
    root = folder(tmp_path / "data")
    assert cli(f"{FILES} --data.root {root}").status == 0
    (root / "train" / "cat" / "one_more.JPEG").write_bytes(images.jpeg(999))
    done = cli(f"{FILES} --data.root {root}")
    assert "images: 24 train, 9 val, 0 test there, 25 train, 9 val, 0 test given" in done.out
    assert len(runs()) == 2


def test_a_finished_run_whose_data_or_weights_are_gone_is_shown(cli, tmp_path):
    root = folder(tmp_path / "data")
    torch.save(build_model("resnet8", num_classes=3).state_dict(), tmp_path / "w.pt")
    line = f"{FILES} --data.root {root} --model.weights {tmp_path}/w.pt"
    assert cli(line).status == 0
    (tmp_path / "w.pt").unlink()
    assert "nothing to do" in cli(line).out
    shutil.rmtree(root)
    assert "nothing to do" in cli(line).out
    elsewhere = cli(line.replace(str(root), f"{tmp_path}/nowhere"))
    assert elsewhere.status == 2
    assert "nothing to do" not in elsewhere.out


@pytest.mark.parametrize("change", ["one value", "zeros"])
def test_other_weights_are_another_run(cli, tmp_path, change):
    file = tmp_path / "w.pt"
    torch.save(build_model("resnet8").state_dict(), file)
    line = f"fit {SMALL} --trainer.max_epochs 1 --trainer.limit_train_batches 1 --model.weights {file}"
    assert cli(line).status == 0
    shutil.copy(file, tmp_path / "copy.pt")
    assert "nothing to do" in cli(line.replace("w.pt", "copy.pt")).out
    state = torch.load(file)
    if change == "one value":
        state["fc.bias"][0] += 1e-3
    else:
        state["conv1.weight"].zero_()
    torch.save(state, file)
    done = cli(line)
    assert done.status == 0
    assert "weights to start from" in done.out
    assert len(runs()) == 2
    assert cli(line.partition("--model.weights")[0]).status == 0
    assert len(runs()) == 3  # one that starts from no file is no such run


def test_the_fingerprint_is_in_every_record(cli, tmp_path):
    root = folder(tmp_path / "data")
    assert cli(f"{FILES} --data.root {root} --wandb.mode offline --run_dir run").status == 0
    there = summary(Path("run"))["fingerprint"]["data"]
    assert (there["classes"], there["counts"]) == (["cat", "dog", "emu"], {"train": 24, "val": 9, "test": 0})
    content = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert content["fingerprint"] == {"data": there["digest"], "weights": None}
    assert cli("validate --run_dir run").status == 0
    record = json.loads(Path("run/evaluations/val-center-32-32.json").read_text())
    assert record["fingerprint"]["data"] == there["digest"]


def test_two_cells_of_a_grid_over_data(cli, tmp_path, monkeypatch):
    roots = [folder(tmp_path / "cats"), folder(tmp_path / "cars", "bus", "car", "van")]
    started = []

    def child(words):
        started.append(next(word for word in words if word.startswith("--run_dir=")))
        return nullcontext(SimpleNamespace(wait=lambda: 0))

    monkeypatch.setattr("reslightning.commands.submit.subprocess.Popen", child)
    done = cli(f"submit --local --grid data.root={','.join(map(str, roots))} -- {FILES}")
    assert done.status == 0, done.err
    one, other = started
    assert other.startswith(f"{one}-")
    assert len(other) == len(one) + 5


def test_small_data_is_known_by_its_bytes(cli, tmp_path, cifar_root):
    copy = shutil.copytree(cifar_root, tmp_path / "copy")
    line = "fit -c cifar10 -c overlays/debug --model.arch resnet8 --trainer.max_epochs 1 --data.root"
    assert cli(f"{line} {cifar_root}").status == 0
    assert "nothing to do" in cli(f"{line} {copy}").out
    file = copy / "cifar-10-batches-bin" / "test_batch.bin"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    assert "so this one is" in cli(f"{line} {copy}").out


def test_an_option_at_its_default_does_not_count(cli):
    line = f"fit {SMALL} --trainer.max_epochs 1 --trainer.limit_train_batches 1"
    assert cli(line).status == 0
    (run,) = runs()
    config = yaml.safe_load((run / "config.yaml").read_text())
    for group, key in (("model", "label_smoothing"), ("trainer", "check_val_every_n_epoch"), ("model", "compile")):
        del config[group][key]  # of a version without the option
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "nothing to do" in cli(line).out
    assert rows(run)[0]["epoch"] == "1"


def test_a_directory_of_an_older_name_goes_on(cli, tmp_path):
    line = f"fit {SMALL} --trainer.max_epochs 2 --trainer.callbacks+=tests.observers.Strike "
    line += f"--trainer.callbacks.mark {tmp_path}/mark --trainer.callbacks.step 7"
    assert cli(line).status == 75
    (run,) = runs()
    older = run.rename(run.with_name(run.name[:-8] + "0123abcd"))
    done = cli(line)
    assert f"{older}: continues behind epoch 1" in done.out
    assert runs() == [older]


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "checkpoints/last.ckpt"])
def test_predictions_replace_no_file_of_a_run_s(cli, finished, tmp_path, name):
    run = Path(shutil.copytree(finished(cli), tmp_path / "run"))
    before = (run / name).read_bytes()
    refused = cli(f"predict --run_dir run --output run/{name}")
    assert refused.status == 2
    assert f"--output run/{name} is a file that the run" in refused.err
    assert (run / name).read_bytes() == before
    page = cli(f"compare run --html run/{name}")
    assert page.status == 2
    assert "is no page" in page.err
    assert [cli("predict --run_dir run --output run/out.csv").status, cli("compare run").status] == [0, 0]


def test_what_the_first_process_of_a_start_has_made_is_no_other_run(cli, tmp_path):
    config = yaml.safe_load(cli(f"fit {SMALL} --print_config").out)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)  # when a process of another node looks
    assert find_run(config, str(run), [], None, fresh=False).directory == run
    (run / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"holds metrics or checkpoints, but no config\.yaml"):
        find_run(config, str(run), [], None, fresh=False)
