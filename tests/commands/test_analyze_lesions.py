"""analyze lesions: without a lesion it is test, with one a network that is built without the block; files, mistakes."""

import csv
import itertools
import json
import shutil

import matplotlib as mpl
import pytest
import torch

from reslightning.analysis import lesion_figures, lesions
from reslightning.analysis.lesion_figures import Lesioned
from reslightning.analysis.lesions import REMOVED, plan
from reslightning.models.resnet import build_model
from reslightning.run.summary import error_percent
from reslightning.train.build import load
from tests.analysis.test_lesions import rebuilt
from tests.conftest import checkpoint
from tests.small import Thumbnails

LESIONS = "analyze lesions --draws 3"
DEEPER = "--model.arch resnet14"


def found(cli, run, options: str = "") -> dict:
    result = cli(f"{LESIONS} --run_dir {run} --json {options}")
    assert result.status == 0, result.err
    return json.loads(result.out)


@pytest.mark.parametrize(
    ("options", "command", "split"),
    [
        (DEEPER, "test", "test"),
        ("--trainer.precision bf16-mixed", "test", "test"),
        ("--trainer.precision 64-true", "test", "test"),
        ("--model.test_flip true --model.version v2", "test", "test"),
        ("--data.val_split 300 --data.batch_size 32", "validate", "val"),
    ],
)
def test_without_a_lesion_it_is_test_s_error_to_the_bit(cli, finished, monkeypatch, options, command, split):
    run = finished(cli, options)
    kinds, forward = [], lesions.Rearranged.forward

    def look(self, images):
        logits = forward(self, images)
        kinds.append(logits.dtype)
        return logits

    monkeypatch.setattr(lesions.Rearranged, "forward", look)
    before = sorted(path for path in run.rglob("*") if "evaluations" not in path.parts)
    document = found(cli, run, f"--split {split}")
    assert sorted(path for path in run.rglob("*") if "evaluations" not in path.parts) == before
    assert cli(f"{command} --run_dir {run}").status == 0
    (file,) = (run / "evaluations").glob(f"{split}-center*.json")
    recorded = json.loads(file.read_text())
    assert document["error"] == error_percent(recorded["metrics"][f"{split}/top1"])
    assert document["error"] == document["lesions"][0]["error"]
    assert f"{recorded['images']['of']} " in document["of"]
    wanted = {"bf16-mixed": torch.bfloat16, "64-true": torch.float64}.get(recorded["precision"], torch.float32)
    assert set(kinds) == {wanted}


def test_each_error_is_that_of_a_network_built_so(cli, finished):
    run = finished(cli, DEEPER)
    document = found(cli, run)
    network, data = load(run).model, Thumbnails()
    names, images = document["blocks"], data.n_samples("test")
    everything, labels = data.evaluation_batch(torch.arange(images), "test")
    assert document["skipped"] == ["layer2.0", "layer3.0"]
    alone = [one["blocks"] for one in document["lesions"] if one["kind"] == "block"]
    assert alone == [["layer1.0"], ["layer1.1"], ["layer2.1"], ["layer3.1"]]
    for lesion in document["lesions"]:
        order = list(range(6))
        for place, name in enumerate(lesion["blocks"]):
            if lesion["kind"] != "swapped":
                order[names.index(name)] = REMOVED
            elif place % 2:
                one, other = names.index(lesion["blocks"][place - 1]), names.index(name)
                order[one], order[other] = order[other], order[one]
        with torch.no_grad():
            logits = rebuilt(network, "v1", order)(everything)
        hits = int((logits.argmax(1) == labels).sum())
        assert lesion["error"] == error_percent(hits / images), lesion
    assert len({lesion["error"] for lesion in document["lesions"]}) > 3


def test_the_weights_stay_and_draws_are_the_seed_s(cli, finished):
    run = finished(cli, DEEPER)
    before = checkpoint(run)["state_dict"]
    first = found(cli, run)
    assert found(cli, run) == first
    assert found(cli, run, "--seed_everything 5")["lesions"] != first["lesions"]
    assert all(torch.equal(value, before[name]) for name, value in checkpoint(run)["state_dict"].items())


def test_table_and_files(cli, finished, tmp_path):
    run = finished(cli, DEEPER)
    result = cli(f"{LESIONS} --run_dir {run} --to out/there")
    assert result.status == 0, result.err
    document = found(cli, run)
    single = [one["error"] for one in document["lesions"] if one["kind"] == "block"]
    assert f"without a lesion   {document['error']:6.2f}" in result.out
    assert f"without one block  {sum(single) / 4:6.2f} in the mean of 4" in result.out
    assert f"at worst           {max(single):6.2f} without layer" in result.out
    assert "2 of 6 blocks change the shape, never removed: layer2.0, layer3.0" in result.out
    for row in ("1 block removed", "2 blocks removed", "4 blocks removed", "1 pair swapped"):
        assert f"\n{row} " in result.out
    with (tmp_path / "out" / "there" / "lesions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["lesion"], row["blocks"].split(), float(row["error"])) for row in rows] == [
        (one["kind"], one["blocks"], one["error"]) for one in document["lesions"]
    ]
    assert (tmp_path / "out" / "there" / "lesions.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_of_one_block_a_stage_has_nothing_to_swap(cli, finished, tmp_path):
    run = finished(cli)
    result = cli(f"{LESIONS} --run_dir {run} --to out")
    assert result.status == 0, result.err
    assert "no two blocks of a stage keep its shape: none are swapped" in result.out
    assert (tmp_path / "out" / "lesions.png").is_file()


@pytest.mark.parametrize("subject", ["lesions", "responses"])
def test_a_run_without_a_checkpoint_or_test_images_is_refused(cli, finished, monkeypatch, tmp_path, subject):
    run, labels = finished(cli), Thumbnails.labels
    shutil.copytree(run, "young", ignore=shutil.ignore_patterns("*.ckpt"))
    result = cli(f"analyze {subject} --run_dir young --to out")
    assert (result.status, result.out) == (2, "")
    assert "young has no checkpoints/last.ckpt yet: let the run finish an epoch first" in result.err

    def without_test(self, split):
        return labels(self, split)[:0] if split == "test" else labels(self, split)

    monkeypatch.setattr(Thumbnails, "labels", without_test)
    result = cli(f"analyze {subject} --run_dir {run} --to out")
    assert (result.status, result.out) == (2, "")
    assert "Thumbnails at data has no labelled test images\nGive --root DIR" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arch", ["resnet8", "resnet14", "resnet110"])
def test_the_figure_says_what_is_what_and_no_label_is_over_another(arch):
    network = build_model(arch)
    errors = (6.0 + number % 7 for number in range(1000))
    planned = [one._replace(error=next(errors)) for one in plan(network, 5, 0)]
    names = [name for name, module in network.named_modules() if module in network.blocks]
    figure = lesion_figures.draw_lesions(Lesioned(f"{arch} of run, 10 test images", names, planned))
    figure.canvas.draw()
    by_block, by_number, by_order = figure.axes
    assert all(axes.get_ylabel() == "top-1 error (%)" for axes in figure.axes)
    assert [axes.get_xlabel().split(",")[0].split(":")[0] for axes in figure.axes] == [
        "block that is removed",
        "blocks removed",
        "Kendall's tau of the order of the blocks",
    ]
    assert by_order.xaxis_inverted()
    for axes in (by_block, by_number, by_order):
        assert any(line.get_label() == "no lesion" and set(line.get_ydata()) == {6.0} for line in axes.lines)
        low, high = axes.get_xlim()
        shown = [
            label for label in axes.get_xticklabels() if min(low, high) <= label.get_position()[0] <= max(low, high)
        ]
        boxes = [label.get_window_extent() for label in shown if label.get_text()]
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
    (legend,) = figure.legends
    assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in figure.axes)
    mpl.pyplot.close(figure)
