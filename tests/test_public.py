"""The public names: seen before they are imported, and refusing what the command line refuses."""

import csv
import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reslightning
from reslightning import ImageClassifier, build_model, load_runs
from reslightning import data as sets
from reslightning.cli.quiet import BY_DESIGN
from reslightning.errors import UserError
from reslightning.train.optim import Optim, Schedule
from tests.conftest import SMALL, summary
from tests.small import Thumbnails

NAMES = {"ImageClassifier", "build_model", "data", "list_architectures", "load", "load_runs"}


def test_names_are_seen_without_importing_what_they_need():
    code = "import sys, reslightning, reslightning.data; print(dir(reslightning), dir(reslightning.data)); "
    code += "print({'torch', 'lightning', 'numpy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(repr(name) in out for name in [*NAMES, *sets.__all__])
    assert out.endswith("set()\n")
    assert set(reslightning.__all__) == NAMES
    assert not hasattr(reslightning, "nothing")


@pytest.mark.parametrize("name", sorted(NAMES - {"data"}) + [f"data.{name}" for name in sets.__all__])
def test_they_are_typed_and_documented(name):
    found = reslightning
    for part in name.split("."):
        found = getattr(found, part)
    assert inspect.getdoc(found)
    signature = inspect.signature(found)
    assert all(parameter.annotation is not parameter.empty for parameter in signature.parameters.values())
    assert isinstance(found, type) or signature.return_annotation is not signature.empty


MISTAKES = [
    (lambda: ImageClassifier(optim={"name": "adam"}), "model.optim.name='adam' is not allowed; did you mean 'adamw'"),
    (
        lambda: ImageClassifier(optim={"larning": 1}),
        "unknown option 'model.optim.larning'\nallowed: name, lr",
    ),
    (lambda: ImageClassifier(optim="adamw"), "model.optim='adamw' is not allowed\nallowed: Optim, or a mapping"),
    (lambda: ImageClassifier(optim={"lr": True}), "model.optim.lr=True is not allowed\nallowed: a number"),
    (lambda: ImageClassifier(schedule={"name": "cosin"}), "did you mean 'cosine'"),
    (lambda: ImageClassifier(schedule=Optim()), "allowed: Schedule"),
    (lambda: ImageClassifier(num_classes=0), "model.num_classes=0 is out of range; allowed: 1 or more"),
    (lambda: ImageClassifier(num_classes=True), "model.num_classes=True is not allowed\nallowed: a whole number"),
    (lambda: ImageClassifier(shortcut="D"), "model.shortcut='D' is not allowed\nallowed: A, B, C"),
    (lambda: ImageClassifier(version="v3"), "model.version='v3' is not allowed\nallowed: v1, v1.5, v2"),
    (lambda: ImageClassifier(ema_decay=1), r"allowed: \(0, 1\)"),
    (lambda: ImageClassifier(compile="no"), "allowed: true or false"),
    (lambda: ImageClassifier(frozen_stages=True), "allowed: a whole number"),
    (lambda: Optim(betas=(0.9,)), "model.optim.betas="),
    (lambda: Optim(name="SGD"), "model.optim.name='SGD' is not allowed"),
    (lambda: Schedule(milestones=30), "model.schedule.milestones=30 is not allowed"),
    (lambda: Schedule(unit="epoch"), "did you mean 'epochs'"),
    (lambda: build_model("resnet20", num_classes=0), "num_classes=0 is out of range; allowed: 1 or more"),
    (lambda: build_model("resnet20", num_classes="10"), "num_classes='10' is not allowed"),
    (lambda: build_model("resnet20", shortcut="D"), "unknown shortcut 'D'; allowed: A, B, C"),
    (lambda: build_model("resnet20", zero_init_residual="no"), "allowed: true or false"),
    (lambda: build_model("resnet20", weights=3), "weights=3 is not allowed"),
    (lambda: build_model(20), "arch=20 is not allowed\nallowed: text"),
    (lambda: sets.CIFAR10(policy="nope"), "data.policy='nope' is not allowed\nallowed: trivial, rand"),
    (lambda: sets.CIFAR10(seed=2**70), r"allowed: a whole number in \[0, 4294967295\]"),
    (lambda: sets.CIFAR100(batch_size="128"), "data.batch_size='128' is not allowed\nallowed: a whole number"),
    (lambda: sets.CIFAR100(bach_size=128), "unknown option 'data.bach_size'; did you mean 'batch_size'"),
    (lambda: sets.Digits(4, "zero"), "data.padding_mode='zero' is not allowed; did you mean 'zeros'"),
    (lambda: sets.Digits(mean=[0.5]), "data.mean has 1 values; allowed: 3"),
    (lambda: sets.Digits(erasing=2), "a probability"),
    (lambda: sets.ImageFolder(eval_size=300), "more than data.eval_resize=256"),
    (lambda: sets.ImageNet(on_corrupt="ignore"), "allowed: error, skip"),
    (lambda: load_runs(3), "place=3 is not allowed"),
    (lambda: load_runs("nowhere"), "no runs at .*nowhere, which does not exist"),
    (lambda: reslightning.load(3), "run=3 is not allowed"),
]


@pytest.mark.parametrize(("make", "said"), MISTAKES)
def test_constructors_refuse_what_the_parser_refuses(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_other_libraries_numbers_do_not_get_into_checkpoints():
    model = ImageClassifier(
        "resnet8", int(np.int64(3)), optim={"lr": np.float64(0.5)}, label_smoothing=np.float64(0.25)
    )
    assert (type(model.hparams["optim"]["lr"]), type(model.hparams["label_smoothing"])) == (float, float)


def test_runs_are_read(cli, tmp_path):
    assert cli(f"fit {SMALL} --trainer.max_epochs 1").status == 0
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "summary.json").write_text('{"a": 1}')
    with pytest.warns(UserWarning, match="skipped runs/other: its files are not a run's"):
        (run,) = load_runs()
    assert run.summary["arch"] == "resnet8"
    assert run.result[0]["val/top1"] > 0


# -- a run's network -------------------------------------------------------------------------------


def probabilities(path: Path) -> torch.Tensor:
    lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return torch.tensor([[float(value) for value in line[3:13]] for line in lines])


@pytest.mark.parametrize("extra", ["", "--model.ema_decay 0.9 --data.val_split 300"])
def test_a_run_s_network_is_the_one_that_is_evaluated(cli, finished, tmp_path, extra):
    run = finished(cli, extra)
    assert cli(f"predict --run_dir {run} --output {tmp_path}/all.csv").status == 0
    model = reslightning.load(run)
    assert not model.training
    images, _ = Thumbnails().load(train=False)
    array = images.permute(0, 2, 3, 1).numpy()  # as a researcher has them

    batch = torch.from_numpy(array).permute(0, 3, 1, 2) / 255
    logits = model((batch - model.mean[:, None, None]) / model.std[:, None, None])
    assert torch.allclose(logits.softmax(1), probabilities(tmp_path / "all.csv"), atol=1e-5)
    guesses = [model.class_names[guess] for guess in logits.argmax(1)]
    assert guesses == [str(int(line)) for line in probabilities(tmp_path / "all.csv").argmax(1)]
    assert (model.image_size, model.eval_resize, model.eval_size, model.interpolation) == (4, None, 4, None)
    assert isinstance(ImageClassifier.from_run(str(run)), ImageClassifier)
    facts = summary(run)
    assert (facts["mean"], facts["std"], facts["image_size"]) == (model.mean.tolist(), model.std.tolist(), 4)


def test_sizes_of_files():
    data = sets.ImageFolder(eval_resize=232, eval_size=200)
    assert data.sizes == {"image_size": 200, "eval_resize": 232, "eval_size": 200, "interpolation": "bilinear"}


def test_what_an_older_checkpoint_lacks_is_in_its_configuration_or_said(cli, finished, tmp_path):
    run = Path(shutil.copytree(finished(cli, ""), tmp_path / "run"))
    last = run / "checkpoints" / "last.ckpt"
    whole = reslightning.load(run)
    content = torch.load(last, weights_only=True)
    torch.save({key: content[key] for key in content.keys() - {"class_names", "normalisation", "sizes"}}, last)
    (run / "summary.json").write_text('{"format": 1, "run_id": "x"}')
    older = reslightning.load(run)
    assert torch.equal(older.mean, whole.mean)
    assert (older.class_names, older.eval_size) == (whole.class_names, 4)
    (run / "config.yaml").unlink()
    with pytest.warns(UserWarning, match="neither checkpoint nor config.yaml says class_names, mean, std, image_size"):
        assert reslightning.load(run).mean is None


def test_load_of_what_is_no_run(cli, finished, tmp_path):
    run = Path(shutil.copytree(finished(cli, ""), tmp_path / "run"))
    cases = {"nowhere": "nowhere is no run directory", "nowhere.ckpt": "no weights at nowhere.ckpt"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "summary.json").write_text('{"a": 1}')
    cases["other"] = "other is no run directory: its summary.json is not a run's"
    for place, said in cases.items():
        with pytest.raises(UserError, match=said):
            reslightning.load(place)
    last = run / "checkpoints" / "last.ckpt"
    assert reslightning.load(last).class_names == reslightning.load(run).class_names
    torch.save({"state_dict": {}}, last)
    with pytest.raises(UserError, match="no checkpoint of a training"):
        reslightning.load(run)
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(UserError, match="truncated"):
        reslightning.load(run)
    last.unlink()
    with pytest.raises(UserError, match=r"has no checkpoints/last\.ckpt yet"):
        reslightning.load(run)
    (run / "summary.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="a run of format 99, and this version of reslightning knows 1"):
        reslightning.load(run)


@pytest.mark.filterwarnings(*(f"ignore:{message}" for message in BY_DESIGN))
def test_the_readme_s_program_runs(cli, finished, capfd):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    program = text.split("## Python\n```python\n")[1].split("```")[0]
    assert len(program.splitlines()) <= 22
    Path("runs").mkdir()
    shutil.copytree(finished(cli), "runs/RUN")
    capfd.readouterr()
    names: dict[str, Any] = {}
    exec(compile(program.replace("max_epochs=3", "max_epochs=1"), "README.md", "exec"), names)
    assert "'val/balanced'" in capfd.readouterr().out
    text = next(Path("logs").rglob("metrics.csv")).read_text()
    validated = [row for row in csv.DictReader(text.splitlines()) if row["val/top1"]]
    assert {float(row["val/top1"]) for row in validated} == {names["keep"].best_model_score.item()}
    assert list(Path("logs").rglob("*.ckpt"))
