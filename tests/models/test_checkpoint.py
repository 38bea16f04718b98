"""Files are read, and what is pickled in them is not executed, wherever it lies and by whatever door it comes."""

import argparse
import os
import pickle
import shutil
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import reslightning
from reslightning.errors import Assumed, UserError
from reslightning.models.checkpoint import PLAIN, Inert, read_checkpoint
from reslightning.models.resnet import build_model
from reslightning.train.restored import configured
from tests.conftest import SMALL


class Payload:
    """Makes a folder where it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))


class Call:
    """Calls a function by its name where it is unpickled."""

    def __init__(self, function, *args, state=None):
        self.made = (function, args, state)

    def __reduce__(self):
        return self.made


# Every one of them would execute something, or give another a way to, were it unpickled as it stands.
MALICIOUS = {
    "alone": Payload(),
    "among weights": {"state_dict": {"conv1.weight": torch.ones(2), "x": Payload()}},
    "in a namespace": {"args": argparse.Namespace(nested=argparse.Namespace(x=Payload()))},
    "in an object's state": {"args": Call(argparse.Namespace, state={"x": Payload()})},
    "in an array": {"best": np.array([Payload()], dtype=object)},
    "in an ordered dict": OrderedDict(x=[(Payload(),)]),
    "as a key": {"x": {(1, 2): Payload()}},
    "getattr": {"x": Call(getattr, argparse.Namespace, "__init__")},
    "getattr of an allowed kind": {"x": Call(getattr, SimpleNamespace(), "__class__")},
    "eval": {"x": Call(eval, "__import__('os').mkdir('executed')")},
    "a method's function": {"x": Call(argparse.Namespace.__init__, argparse.Namespace())},
    "import": {"x": Call(__import__, "antigravity")},
}
# As pickle writes what no object gives: a kind of objects taken apart by the dot in its name.
DOTTED = b"\x80\x02cargparse\nNamespace.__init__.__globals__\n."


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_pickle_is_not_executed(kind, zipped, tmp_path):
    torch.save(MALICIOUS[kind], tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"holds pickled objects besides tensors \(\S+\) and is not opened"):
        build_model("resnet20", weights=str(tmp_path / "w.pt"))
    assert list(tmp_path.iterdir()) == [tmp_path / "w.pt"]


@pytest.mark.parametrize("content", [*(pickle.dumps(kind) for kind in MALICIOUS.values()), DOTTED])
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors", ".bin"])
def test_a_bare_pickle_is_none_of_the_files(content, suffix, tmp_path):
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(UserError):
        build_model("resnet20", weights=str(tmp_path / f"w{suffix}"))
    assert list(tmp_path.iterdir()) == [tmp_path / f"w{suffix}"]


def test_the_payloads_do_what_they_say(tmp_path):
    pickle.loads(pickle.dumps(MALICIOUS["in an object's state"]))
    assert (tmp_path / "executed").is_dir()


DOORS = (
    *(f"{command} --model.weights w.ckpt" for command in ("fit", "validate", "test", "predict --output o.csv")),
    *(f"{command} --ckpt_path w.ckpt" for command in ("fit", "validate", "test", "predict --output o.csv")),
    *(f"{command} --model.weights w.ckpt#state_dict" for command in ("fit", "test")),
    *(f"{command} --run_dir run" for command in ("fit --trainer.max_epochs 3", "validate", "test", "predict")),
    *(f"{command} --model.weights run" for command in ("fit", "test")),
    "fit -c run/config.yaml --trainer.max_epochs 4 --ckpt_path run/checkpoints/last.ckpt",
)
OF_PICTURES = (
    *(f"predict a.png {where}" for where in ("--model.weights w.ckpt", "--model.weights run", "--run_dir run")),
    "predict a.png --run_dir run --ckpt_path w.ckpt",
    "average run/checkpoints/last.ckpt w.ckpt --to o.ckpt",
    *(f"export {source} --to d" for source in ("run", "w.ckpt")),
)


def test_no_door_of_the_command_line_executes(cli, finished, tmp_path):
    shutil.copytree(finished(cli), tmp_path / "run")
    content = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    args = argparse.Namespace(x=Payload())
    for file in (tmp_path / "w.ckpt", *(tmp_path / "run" / "checkpoints").glob("*.ckpt")):
        torch.save(content | {"args": args}, file)
    summary = (tmp_path / "run" / "summary.json").read_text()
    (tmp_path / "run" / "summary.json").write_text(summary.replace('"finished"', '"interrupted"'))
    for door in (*DOORS, *OF_PICTURES):
        done = cli(door if " -c " in door or door in OF_PICTURES else f"{door} {SMALL}")
        assert done.status == 2, (door, done.out, done.err)
        assert "holds pickled objects besides tensors" in done.err, (door, done.err)
        assert not list(tmp_path.rglob("executed")), door


@pytest.mark.parametrize("door", [reslightning.load, reslightning.ImageClassifier.from_run])
def test_no_door_of_python_executes(cli, finished, tmp_path, door):
    shutil.copytree(finished(cli), tmp_path / "run")
    torch.save({"args": Payload()}, tmp_path / "run" / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match="holds pickled objects"):
        door("run")
    for name in ("resnet8", "resnet20"):
        with pytest.raises(UserError, match="holds pickled objects"):
            reslightning.build_model(name, weights="run")
        with pytest.raises(UserError, match="holds pickled objects"):
            reslightning.ImageClassifier(name, weights="run/checkpoints/last.ckpt")
    assert not (tmp_path / "executed").exists()


# Classes, functions and modules that a run's configuration may name as its data set; each makes a folder if it is used.
NAMED = {
    "os.mkdir": {"path": "executed"},
    "subprocess.Popen": {"args": ["mkdir", "executed"]},
    "imported.Data": {},
    "reslightning.data.imported.Data": {},
}


@pytest.mark.filterwarnings("default::reslightning.errors.Assumed")
@pytest.mark.parametrize("name", NAMED)
def test_no_door_uses_what_a_run_s_configuration_names(cli, finished, tmp_path, monkeypatch, name):
    run = shutil.copytree(finished(cli), tmp_path / "run")
    (tmp_path / "imported.py").write_text("import os\nos.mkdir('executed')\nclass Data:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = {"class_path": name, "init_args": NAMED[name]}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    content = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    torch.save({key: content[key] for key in content.keys() - {"normalisation", "sizes"}}, "run/checkpoints/last.ckpt")
    shutil.copy("run/checkpoints/last.ckpt", "w.ckpt")
    Image.new("RGB", (8, 8)).save("a.png")
    for door in ("export run --to d", "export run/checkpoints/last.ckpt --to e", "predict a.png --run_dir run"):
        done = cli(door)
        assert done.status == 0, (door, done.err)
        assert "neither checkpoint nor config.yaml says mean, std" in done.err
    done = cli("average run w.ckpt --to o.ckpt")
    assert done.status == 2
    assert f"does not say what run was trained on: the data set {name} is none of this package's" in done.err
    with pytest.warns(Assumed):
        assert reslightning.load("run").mean is None
    assert not (tmp_path / "executed").exists()


def test_what_a_run_s_configuration_names_downloads_and_copies_nothing(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "data: {class_path: reslightning.data.CIFAR10, init_args: {download: true, stage_to: /tmp}}"
    )
    data = configured(tmp_path / "config.yaml")
    assert (data.download, data.stage_to) == (False, None)


def test_plain_objects_are_allowed_for_others_files_alone(tmp_path):
    torch.save({"args": argparse.Namespace(lr=0.1), "step": 3}, tmp_path / "w.pt")
    before = set(torch.serialization.get_safe_globals())
    content = read_checkpoint(tmp_path / "w.pt", PLAIN)
    assert type(content["args"]) is Inert
    assert vars(content["args"]) == {}
    assert content["step"] == 3
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(UserError, match=r"\(argparse.Namespace\)"):
        read_checkpoint(tmp_path / "w.pt")


def test_an_address_is_not_taken_for_an_object(tmp_path):
    """As numpy's own functions would, to the end of the process: a kind that says it holds no objects, and does."""
    kind = Call(np.dtype, "O8", False, True, state=(3, "|", None, None, None, -1, -1, 0))
    torch.save({"best": Call(np.float64(0).__reduce__()[0], kind, b"A" * 8)}, tmp_path / "w.pt")
    assert type(read_checkpoint(tmp_path / "w.pt", PLAIN)["best"]) is Inert


def test_what_is_allowed_calls_nothing_of_others():
    assert {stand_in.__module__ for stand_in in PLAIN.values()} == {"reslightning.models.checkpoint"}
