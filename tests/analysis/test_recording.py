"""GradientFlow records what training's own passes have, and leaves a run's bits as they are, however it is stopped."""

import csv
import math
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from reslightning.analysis import GradientFlow, gradient_figures
from reslightning.analysis.gradient_flow import Tape
from reslightning.analysis.recording import COLUMNS
from reslightning.cli.quiet import quiet
from reslightning.errors import UserError
from reslightning.train.classifier import ImageClassifier
from tests.conftest import SMALL, assert_same_bits, assert_same_result
from tests.ranks import TWO, run
from tests.train.test_callbacks import assert_goes_on, given

FLOW = given("GradientFlow", every_n_steps=2)
LINE = f"fit {SMALL} --trainer.max_epochs 2"  # of 5 steps each


def records(folder: Path) -> list[dict[str, str]]:
    with (folder / "evaluations" / "gradients.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("options", ["", "--trainer.accumulate_grad_batches 2", "--model.norm none"])
def test_a_run_has_the_same_bits_with_and_without(cli, tmp_path, options):
    assert cli(f"{LINE} --run_dir without {options}").status == 0
    result = cli(f"{LINE} --run_dir with {options} {FLOW}")
    assert result.status == 0, result.err
    assert_same_result(tmp_path / "with", tmp_path / "without")
    found = records(tmp_path / "with")
    assert [(int(row["step"]), row["block"]) for row in found] == [
        (step, block) for step in (0, 2, 4, 6, 8) for block in ("layer1.0", "layer2.0", "layer3.0")
    ]
    assert all(float(row["dz"]) > 0 for row in found[3:])
    assert (tmp_path / "with" / "evaluations" / "gradients.png").read_bytes().startswith(b"\x89PNG")


def test_a_trial_run_keeps_nothing(cli, tmp_path):
    result = cli(f"{LINE} {FLOW} --trainer.fast_dev_run 3")
    assert result.status == 0, result.err
    assert not list(tmp_path.rglob("gradients.*"))


@pytest.mark.parametrize("step", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (0, 4))])
def test_a_stopped_run_ends_with_the_same_records(cli, tmp_path, step):
    files = ("evaluations/gradients.csv", "evaluations/gradients.png")
    assert_goes_on(cli, tmp_path, f"{LINE} {FLOW}", [(step, "train")], files)


def trained(tmp_path, precision: str = "32-true", batches: int = 1, callbacks: tuple = ()) -> ImageClassifier:
    torch.manual_seed(0)
    model = ImageClassifier("resnet8", num_classes=3)
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        accumulate_grad_batches=batches,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
    )
    with quiet(), warnings.catch_warnings(action="ignore"):  # of Lightning's about loaders without workers
        trainer.fit(model, DataLoader(TensorDataset(images, labels), batch_size=4))
    return model


@pytest.mark.parametrize(("precision", "close"), [("32-true", 1e-5), ("64-true", 1e-12), ("bf16-mixed", 0.02)])
def test_what_is_recorded_is_the_training_s_own_gradient(tmp_path, monkeypatch, precision, close):
    seen = []
    monkeypatch.setattr(Tape, "flows", lambda tape, scale, own=Tape.flows: seen.append(own(tape, scale)) or seen[-1])
    gradients = {}

    class Look(GradientFlow):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            for name, block in self.blocks.items():
                parts = [parameter.grad.double().square().sum() for parameter in block.parameters()]
                gradients.setdefault(name, []).append(math.sqrt(sum(parts)))

        def setup(self, trainer, module, stage):
            super().setup(trainer, module, stage)
            self.blocks = Tape(module.model).blocks

    with_, without = trained(tmp_path, precision, 1, (Look(1),)), trained(tmp_path, precision)
    assert_same_bits(dict(with_.state_dict()), dict(without.state_dict()))
    assert not any(module._forward_hooks for module in with_.modules())
    assert len(seen) == 2
    for step, flows in enumerate(seen):
        for flow in flows:
            assert flow.parameters == pytest.approx(gradients[flow.block][step], rel=close)
            parts = flow.shortcut_part**2 + flow.residual_part**2
            both = 2 * flow.cosine * flow.shortcut_part * flow.residual_part
            assert flow.dx == pytest.approx(math.sqrt(parts + both), rel=10 * close)
    with (tmp_path / "gradients.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == list(COLUMNS)
    assert [float(row[4]) for row in rows] == [flow.dz for flows in seen for flow in flows]


def test_a_part_of_an_accumulated_step_counts_as_a_whole(tmp_path, monkeypatch):
    scales = []
    monkeypatch.setattr(Tape, "flows", lambda tape, scale: scales.append(scale) or [])
    trained(tmp_path, batches=2, callbacks=(GradientFlow(1),))
    assert scales == [2.0]


def test_loggers_have_the_norms(cli, tmp_path):
    logged = "--trainer.logger CSVLogger --trainer.logger.save_dir logs"
    assert cli(f"{LINE} --run_dir run {FLOW} {logged}").status == 0
    (file,) = Path("logs").rglob("metrics.csv")
    with file.open(newline="") as text:
        rows = [row for row in csv.DictReader(text) if row.get("gradients/layer1.0")]
    own = [row["dz"] for row in records(tmp_path / "run") if row["block"] == "layer1.0"]
    assert [float(row["gradients/layer1.0"]) for row in rows] == pytest.approx([float(value) for value in own])
    assert [row["step"] for row in rows] == ["0", "2", "4", "6", "8"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (given("GradientFlow", every_n_steps=0), "every_n_steps=0 is out of range; allowed: 1 or more"),
        (f"{FLOW} {given('GradientFlow')}", "GradientFlow is given twice"),
        (f"{FLOW} --model.compile true", "Leave out model.compile, or the callback."),
        (given("GradientFlwo"), "GradientFlwo"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_a_run_is_made(cli, tmp_path, options, said):
    result = cli(f"{LINE} {options}")
    assert result.status == 2
    assert said in result.err
    assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


def test_a_network_without_blocks_is_refused(tmp_path):
    class Other(ImageClassifier):
        def __init__(self):
            super().__init__("resnet8", num_classes=3)
            self.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))

    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[GradientFlow()])
    with pytest.raises(UserError, match="resnet8 has no blocks"), warnings.catch_warnings(action="ignore"):
        trainer.fit(Other(), DataLoader(TensorDataset(torch.randn(4, 3, 8, 8), torch.arange(4) % 3)))


def test_the_map_has_its_axes_named_and_takes_what_is_missing():
    figure = gradient_figures.draw_map([0, 50, 100], [[1, 2], [3, math.nan], [0, 1e-9]], "resnet8")
    curves, axes, bar = figure.axes
    assert [text.get_text() for text in curves.get_legend().texts] == ["step 0", "step 50", "step 100"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "block, from the input on")
    assert "norm" in bar.get_ylabel()
    assert axes.collections[0].get_array().mask.sum() == 2


@pytest.mark.slow
def test_of_two_processes_the_first_records_and_both_train_as_without(tmp_path):
    run(f"{LINE} {TWO} {FLOW} --run_dir with")
    run(f"{LINE} {TWO} --run_dir without")
    assert_same_result(tmp_path / "with", tmp_path / "without")
    assert [int(row["step"]) for row in records(tmp_path / "with")[::3]] == [0, 2, 4, 6, 8]
