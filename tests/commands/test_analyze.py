"""analyze gradients: tables, JSON, curves and numbers, of starts and of runs, and what is said of mistakes."""

import csv
import functools
import json
import re

import matplotlib as mpl
import pytest

from reslightning.analysis import gradient_figures
from reslightning.analysis.gradient_figures import Measured
from reslightning.analysis.gradient_flow import DISTANCE, Flow
from tests.conftest import SMALL

GRADIENTS, LESIONS, RESPONSES = "analyze gradients --batch_size 8", "analyze lesions", "analyze responses"


def test_help_lists_the_subjects(cli):
    for line in ("analyze", "analyze --help"):
        result = cli(line)
        assert result.status == 0
        assert "gradients  how the loss's gradient flows through the blocks" in result.out
    assert "look inside networks" in cli("--help").out
    text = cli("analyze gradients --help")
    assert text.status == 0
    assert "--model.norm batch|none" in text.out


def test_tables_and_files(cli, tmp_path):
    result = cli(f"{GRADIENTS} --model.arch plain20,resnet20 --to out/there")
    assert result.status == 0, result.err
    tables = re.split(r"\n\n(?=\w+: )", result.out)
    assert [table.splitlines()[0] for table in tables[1:]] == ["plain20: 9 blocks", "resnet20: 9 blocks"]
    for table in tables[1:]:
        assert re.findall(r"^layer\d\.\d", table, re.MULTILINE) == ["layer1.0", "layer2.1", "layer3.2"]
    ratios = [float(value) for value in re.findall(r"first block is (\S+) times", result.out)]
    with (tmp_path / "out" / "there" / "gradient-flow.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["network"], row["number"]) for row in rows] == [
        (name, str(number)) for name in ("plain20", "resnet20") for number in range(1, 10)
    ]
    for start, ratio in zip((0, 9), ratios, strict=True):
        assert float(rows[start]["dz"]) / float(rows[start + 8]["dz"]) == pytest.approx(ratio, rel=0.01)
    assert not any(row["shortcut_part"] for row in rows[:9])
    assert all(row["correlation"] for row in rows)
    assert (tmp_path / "out" / "there" / "gradient-flow.png").read_bytes().startswith(b"\x89PNG")
    again = cli(f"{GRADIENTS} --model.arch plain20,resnet20 --to out/there")
    assert again.out == result.out


def test_several_seeds_decide(cli, tmp_path):
    line = f"{GRADIENTS} --model.arch plain8,resnet8 --seeds 2"
    result = cli(f"{line} --to there")
    assert result.status == 0, result.err
    lines = re.findall(r"^((?:not )?\w+): (.* size.*) \((factor .*, 2 seeds)\)$", result.out, re.MULTILINE)
    assert [that for _, that, _ in lines] == [
        *("plain8: the gradient keeps its size", "resnet8: the gradient keeps its size"),
        "the gradient keeps its size better in resnet8 than in plain8",
    ]
    document = json.loads(cli(f"{line} --json").out)
    assert [(one["verdict"], one["that"], one["numbers"]) for one in document["findings"]] == lines
    assert json.loads((tmp_path / "there" / "findings.json").read_text())["findings"] == document["findings"]
    alone = json.loads(cli(f"{GRADIENTS} --model.arch resnet8 --json").out)
    ratio = document["networks"][1]["ratio"]  # the first seed's
    assert [one["numbers"] for one in alone["findings"]] == [f"factor {ratio:.3g} with one seed, which has no interval"]
    assert lines[1][2].split(",")[0] != f"factor {ratio:.3g}"


def test_json_is_one_document(cli):
    result = cli(f"{GRADIENTS} --model.arch resnet8 --json")
    document = json.loads(result.out)
    (network,) = document["networks"]
    assert network["network"] == "resnet8"
    assert [block["shortcut"] for block in network["blocks"]] == ["identity", "padding", "padding"]
    assert network["ratio"] == pytest.approx(network["blocks"][0]["dz"] / network["blocks"][-1]["dz"])


def test_without_normalisation_both_starts_of_residual_networks_are_measured(cli):
    result = cli(f"{GRADIENTS} --model.arch plain8,resnet20 --model.norm none --json")
    networks = {network["network"]: network for network in json.loads(result.out)["networks"]}
    fixup = networks["resnet20, no norm, Fixup's start but for the final layer's"]
    assert list(networks) == ["plain8, no norm, He's start", fixup["network"], "resnet20, no norm, He's start"]
    assert fixup["ratio"] == pytest.approx(1)  # every branch starts at zero
    assert all(block["residual_part"] == 0 and block["cosine"] is None for block in fixup["blocks"])
    assert networks["resnet20, no norm, He's start"]["ratio"] > 2


def test_a_shortcut_is_asked_of_those_that_have_some(cli):
    result = cli(f"{GRADIENTS} --model.arch plain8,resnet8 --model.shortcut C --json")
    assert result.status == 0, result.err
    kinds = [network["blocks"][0]["shortcut"] for network in json.loads(result.out)["networks"]]
    assert kinds == ["none", "projection"]


def test_a_run_s_network_on_its_own_data(cli, finished):
    run = finished(cli)
    result = cli(f"{GRADIENTS} --run_dir {run} --json")
    assert result.status == 0, result.err
    document = json.loads(result.out)
    assert document["of"] == "8 training images of Thumbnails"
    assert document["networks"][0]["network"] == f"resnet8 of {run}"
    start = json.loads(cli(f"{GRADIENTS} --model.arch resnet8 --json").out)
    assert document["networks"][0]["blocks"][0]["dz"] != start["networks"][0]["blocks"][0]["dz"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("analyze gradient", "analyze knows no 'gradient'; did you mean 'gradients'?\nallowed: gradients"),
        (
            "analyze --json gradients",
            "analyze knows no '--json'\nallowed: gradients, responses, lesions, deep_gp, in front of its options",
        ),
        (f"{GRADIENTS} --model.arch resnett20", "unknown architecture 'resnett20'; did you mean 'resnet20'"),
        (f"{GRADIENTS} --model.arch plain20,", "unknown architecture ''"),
        (
            f"{GRADIENTS} --model.arch resnet20,vgg16",
            "vgg16 has no blocks, which are what is measured\nGive",
        ),
        (f"{GRADIENTS} --model.arch plain20 --model.shortcut A", "plain20 has no shortcuts: leave out shortcut 'A'"),
        (
            f"{GRADIENTS} --model.arch plain20,plain56 --model.shortcut A",
            "plain20 has no shortcuts: leave out shortcut",
        ),
        (f"{GRADIENTS} --model.shortcut Z", "unknown shortcut 'Z'; allowed: A, B, C"),
        (f"{GRADIENTS} --model.norm nome", "unknown norm 'nome'; allowed: batch, none"),
        (f"{GRADIENTS} --run_dir nowhere", "nowhere is no run directory: it has no config.yaml"),
        (f"{GRADIENTS} --run_dir nowhere --model.arch resnet8", "Leave out --model.arch, or --run_dir."),
        (f"{GRADIENTS} --to file/below", "--to file/below/gradient-flow.csv cannot be written: Not a directory"),
        ("analyze gradients --batch_size 5000", "allowed: at most 1,438"),
        ("analyze gradients --batch_size 0", "--batch_size=0 is not allowed"),
        (f"{GRADIENTS} --data CIFAR10 --root nowhere", "nowhere"),
        (f"{GRADIENTS} --modl.arch resnet8", "did you mean '--model.arch'"),
        (f"{LESIONS} --run_dir nowhere", "nowhere is no run directory: it has no config.yaml"),
        (f"{LESIONS} --run_dir bare", "bare is no run directory: it has no summary.json"),
        (f"{LESIONS} --run_dir borrowed", "vgg16 has no blocks"),
        (LESIONS, "not given, and required: --run_dir"),
        (f"{LESIONS} --run_dir RUN --to file/below", "--to file/below/lesions.csv cannot be written: Not a directory"),
        (f"{LESIONS} --run_dir RUN --draws 0", "--draws=0 is not allowed"),
        (f"{LESIONS} --run_dir RUN --split train", "invalid choice: 'train' (choose from 'test', 'val')"),
        (f"{LESIONS} --run_dir RUN --seed_everything -1", "--seed_everything=-1 is not allowed"),
        (f"{LESIONS} --run_dir RUN --draw 3", "did you mean '--draws'"),
        (f"{RESPONSES} --run_dir RUN nowhere", "nowhere is no run directory: it has no config.yaml"),
        (f"{RESPONSES} --run_dir bare", "bare is no run directory: it has no summary.json"),
        (f"{RESPONSES} --run_dir RUN borrowed", "vgg16 has no blocks, which"),
        (RESPONSES, "not given, and required: --run_dir"),
        (
            f"{RESPONSES} --run_dir RUN --to file/below",
            "--to file/below/responses.csv cannot be written: Not a directory",
        ),
        (f"{RESPONSES} --run_dir RUN --images 0", "--images=0 is not allowed"),
        (
            f"{RESPONSES} --run_dir RUN --images 1000",
            "--images 1000 is more than there are test images; allowed: at most 359",
        ),
        (f"{RESPONSES} --run_dir RUN --data CIFAR10 --root nowhere", "nowhere"),
        (f"{RESPONSES} --run_dir RUN --image 3", "did you mean '--images'"),
    ],
)
def test_mistakes_are_said(cli, finished, tmp_path, line, said):
    run = finished(cli)
    (tmp_path / "file").touch()
    for name, arch in (("bare", "resnet8"), ("borrowed", "vgg16")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"model: {{arch: {arch}}}\n")
    before = sorted(tmp_path.rglob("*"))
    result = cli(line.replace("RUN", str(run)))
    assert result.status == 2, result.out
    assert said in result.err
    assert "Traceback" not in result.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_without_a_checkpoint_is_refused(cli, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f"# {SMALL}\nmodel: {{arch: resnet8}}\n")
    result = cli(f"{GRADIENTS} --run_dir run")
    assert result.status == 2
    assert "run" in result.err
    assert "Traceback" not in result.err


def test_curves_are_told_apart_without_colours_and_named_beside_them():
    flows = [Flow("x", "identity", 10.0**-number, 1, 1, 1, 0, 1) for number in range(3)]
    figure = gradient_figures.draw_curves([Measured(name, flows, {1: 0.9, 3: 0.1}) for name in "ab"], "title")
    norms, alike = figure.axes
    looks = {(line.get_linestyle(), line.get_marker()) for line in norms.lines}
    assert len(looks) == 2
    assert norms.get_yscale() == "log"
    assert "nats" in norms.get_ylabel()
    assert f"{100 * DISTANCE:g} % of their norm" in alike.get_ylabel()
    assert alike.get_xlabel() == "block, from the input on"
    figure.canvas.draw()
    (legend,) = figure.legends
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)
    mpl.pyplot.close(figure)


def test_deep_gaussian_processes_are_drawn_once(cli, monkeypatch, tmp_path):
    from reslightning.commands import analyze_deep_gp as command

    few = functools.partial(command.prior_pathology, depths=(1, 2), draws=20)
    monkeypatch.setattr(command, "prior_pathology", few)
    found = cli("analyze deep_gp --to out")
    assert found.status == 0, found.err
    assert "ratio of singular values" in found.out
    assert (tmp_path / "out" / "priors" / "pathology.png").is_file()
    again = cli("analyze deep_gp --to out --json")
    document = json.loads(again.out)
    assert len(document["priors"]["cells"]) == 2 * len(document["priors"]["formulas"])
    assert "--scale=big is not allowed; allowed: tiny, small, full" in cli("analyze deep_gp --scale big").err
