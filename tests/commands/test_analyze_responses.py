"""analyze responses: of runs on their own test images, beside each other; files, what is said, and mistakes."""

import csv
import json

import matplotlib as mpl
import pytest
import torch

from reslightning.analysis import response_figures
from reslightning.analysis.response_figures import Responding
from reslightning.analysis.responses import Response
from reslightning.commands.analyze_responses import findings
from reslightning.train.build import load
from tests.small import Thumbnails

PLAIN = "--model.arch plain8"


def found(cli, runs: str) -> dict:
    result = cli(f"analyze responses --run_dir {runs} --json")
    assert result.status == 0, result.err
    return json.loads(result.out)


def test_they_are_of_all_test_images_in_evaluation_mode(cli, finished):
    run = finished(cli)
    (network,) = found(cli, str(run))["networks"]
    assert network["of"] == "359 test images of Thumbnails"
    assert [layer["layer"] for layer in network["layers"]] == [
        "conv1",
        *(f"layer{stage}.0.conv{number}" for stage in (1, 2, 3) for number in (1, 2)),
    ]
    model, data, seen = load(run).model, Thumbnails(), []
    model.bn1.register_forward_hook(lambda _, given, out: seen.append(out.double().std(correction=0).item()))
    with torch.no_grad():
        model(data.evaluation_batch(torch.arange(359), "test")[0])
        model.train()
        model(data.evaluation_batch(torch.arange(359), "test")[0])
    assert network["layers"][0]["deviation"] == pytest.approx(seen[0], rel=1e-6)
    assert network["layers"][0]["deviation"] != pytest.approx(seen[1], rel=1e-3)
    assert network["mean"] == pytest.approx(sum(layer["deviation"] for layer in network["layers"]) / 7)


def test_table_and_files_of_several_runs(cli, finished, tmp_path):
    runs = f"{finished(cli)} {finished(cli, PLAIN)} {finished(cli, '--seed_everything 1')}"
    result = cli(f"analyze responses --run_dir {runs} --images 100 --to out/there")
    assert result.status == 0, result.err
    assert result.out.count("100 test images of Thumbnails") == 3
    assert f"\nresnet8 of {runs.split()[0]} " in result.out
    assert "\nplain8 " in result.out
    assert "8 layers: the residual network's mean response is" in result.out
    with (tmp_path / "out" / "there" / "responses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == [str(number) for number in range(1, 8)] * 3
    assert [row["run"] for row in rows] == [run for run in runs.split() for _ in range(7)]
    assert (tmp_path / "out" / "there" / "responses.png").read_bytes().startswith(b"\x89PNG")
    whole = [layer["deviation"] for one in found(cli, runs)["networks"] for layer in one["layers"]]
    some = [float(row["deviation"]) for row in rows]
    assert some == pytest.approx(whole, rel=0.2)
    assert some != pytest.approx(whole, rel=1e-4)


def test_of_a_pre_activation_network_it_is_said_what_a_response_is(cli, finished):
    run = finished(cli, "--model.test_flip true --model.version v2")
    result = cli(f"analyze responses --run_dir {run} {finished(cli, PLAIN)}")
    assert result.status == 0, result.err
    assert "resnet8 normalises in front of convolutions (v2): its responses are the convolutions' outputs" in result.out
    assert "times the plain one's" not in result.out


def responding(arch: str, mean: float, version: str = "v1", of: str = "images") -> Responding:
    is_residual, depth = arch.startswith("resnet"), int(arch.lstrip("resntplai"))
    layers = [Response("a", mean - 0.1), Response("b", mean + 0.1)]
    return Responding(arch, arch, "run", is_residual, version, depth, of, layers)


def test_what_comes_out_is_said_either_way():
    networks = [responding("plain20", 1.0), responding("resnet20", 0.5), responding("resnet56", 0.75)]
    networks += [responding("resnet20", 0.7), responding("plain56", 0.5)]
    assert findings(networks) == [
        "20 layers: the residual network's mean response is 0.60 times the plain one's, weaker, as in the paper",
        "56 layers: the residual network's mean response is 1.50 times the plain one's, not weaker, other than in the "
        "paper",
        "residual networks: the mean response of 56 layers is 1.25 times that of 20, not weaker, other than in the "
        "paper",
    ]
    assert findings([responding("plain20", 1.0), responding("resnet20", 0.5, of="others")]) == []


def test_curves_are_told_apart_without_colours_and_fall_in_the_second_panel():
    layers = [Response(str(number), float(value)) for number, value in enumerate((3, 1, 4, 2))]
    networks = [responding(arch, 1)._replace(layers=layers) for arch in ("resnet20", "plain20")]
    figure = response_figures.draw_responses(networks, "title")
    by_layer, by_size = figure.axes
    assert list(by_layer.lines[0].get_ydata()) == [3, 1, 4, 2]
    assert list(by_size.lines[0].get_ydata()) == [4, 3, 2, 1]
    assert list(by_layer.lines[0].get_xdata()) == [1, 2, 3, 4]
    assert len({(line.get_linestyle(), line.get_marker()) for line in by_layer.lines}) == 2
    assert all(axes.get_ylabel() == "standard deviation of responses" for axes in figure.axes)
    figure.canvas.draw()
    (legend,) = figure.legends
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)
    mpl.pyplot.close(figure)
