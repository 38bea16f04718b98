"""The README.md beside exported files: what the network is and how it is used (model cards, arXiv:1810.03993)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from reslightning import __version__
from reslightning.evaluation.certainty import wilson
from reslightning.evaluation.formats import FORMATS, INPUT, OPTIONS, torchvision_call
from reslightning.evaluation.trained import PARTS, Trained
from reslightning.files import printable
from reslightning.run.summary import error_percent

SHOWN = 10  # classes
FLOAT32 = ("32-true", "32", "None")  # precisions of a training


def card(trained: Trained, report: Mapping[str, Any]) -> str:
    """Return the text.

    Args:
        trained: the network.
        report: what ``export`` returns.
    """
    network, facts = trained.facts["hyper_parameters"], trained.facts
    sections = [
        f"# {network['arch']}, {_plural(network['num_classes'], 'class', 'classes')}",
        _table(["", ""], [(name, _plain(text)) for name, text in _facts(trained)]),
        "## Result",
        _results(facts["trained"].get("results") or []),
        "## From a picture to its class",
        "\n".join([*_input(facts, trained.image_size), *_graphs(report)]),
        "## Files",
        f"What each answers was compared with the network on {report['pictures']}. All that stands here is "
        "in `export.json`, too, with the names of all classes.",
        _table(["file", "bytes", "largest difference"], [_file(row) for row in report["files"]]),
    ]
    for row in report["files"]:
        sections += [
            f"### {row['file']}",
            _about(row, report),
            f"```python\n{FORMATS[row['format']].lines(network)}\n```",
        ]
    return "\n\n".join(sections) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _plural(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _facts(trained: Trained) -> Iterator[tuple[str, str]]:
    facts, of = trained.facts, trained.facts["trained"]
    network = facts["hyper_parameters"]
    options = [f"{name} {network[name]}" for name in OPTIONS[1:] if network.get(name)]
    parameters = sum(value.numel() for value in trained.network.parameters())
    yield "network", f"{', '.join([network['arch'], *options])}: {parameters:,} parameters"
    if "dataset" in of:
        content = f", content {of['data']}" if "data" in of else ""
        yield "trained on", f"{of['dataset']}, {of.get('images', 0):,} images{content}"
    if "licence" in of:
        yield "licence of the data", str(of["licence"])
    if "run" in of:
        seed = f", seed {of['seed']}" if "seed" in of else ""
        file = f", {of['checkpoint']}" if "checkpoint" in of else ""
        epoch = f" behind epoch {of['epoch']}" if "epoch" in of else ""
        yield "run", f"{of['run']} ({of['of']}){seed}{file}{epoch}"
        if "started_from" in of:
            digest = f", content {of['weights']}" if "weights" in of else ""
            yield "started from", f"the weights {of['started_from']}{digest}"
        if str(precision := of.get("precision")) not in FLOAT32:
            yield "precision", f"trained and validated in {precision}; these files compute in float32"
    else:
        yield "weights", str(of["of"])
    for line in of.get("assumed", ()):
        yield "assumed", line
    if names := facts.get("class_names"):
        rest = f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        yield "classes", ", ".join(names[:SHOWN]) + rest + _assumed(facts)
    yield "made by", f"reslightning {__version__}"


def _assumed(facts: Mapping[str, Any]) -> str:
    return " (assumed: the weights do not say it)" if facts["trained"].get("assumed") else ""


def _plain(text: str) -> str:
    """Return others' words so that Markdown shows them as they are, on one line."""
    return re.sub(r"[\\`*_\[\]<>|&~$]", r"\\\g<0>", printable(" ".join(text.split())))


def _results(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return "None is recorded of just these weights."
    rows = []
    for row in results:
        count = int(row["images"])
        low, high = wilson(row["top1"] * count, count)
        top5 = f"{error_percent(row['top5']):.2f} %" if "top5" in row else ""
        between = f"{error_percent(high):.2f} to {error_percent(low):.2f}"
        images = f"{count:,} {PARTS.get(str(row['part']), 'images')}"
        rows.append((images, _plain(str(row["protocol"])), f"{error_percent(row['top1']):.2f} % ({between})", top5))
    return _table(["images", "protocol", "top-1 error (95 % interval)", "top-5 error"], rows)


def _input(facts: Mapping[str, Any], size: int) -> Iterator[str]:
    sizes, known = facts.get("sizes") or {}, facts.get("normalisation")
    yield "- It is read as RGB, in this order of the channels."
    if sizes.get("eval_resize"):
        if (upright := facts.get("exif_orientation")) is not None:
            yield f"- It is {'turned upright as' if upright else 'not turned, whatever'} its EXIF data says."
        middle = f"{sizes['eval_size']} x {sizes['eval_size']} is taken{_assumed(facts)}"
        yield (
            f"- Its shorter side is scaled to {sizes['eval_resize']} pixels ({sizes['interpolation']}, with "
            f"antialiasing), and of that the middle {middle}."
        )
    elif sizes:
        yield f"- It is given at {size} x {size} pixels, as its data set has it{_assumed(facts)}."
    else:
        yield f"- It has {size} x {size} pixels; how the training's came to their size is not known."
    if known:
        mean, std = ([round(value, 6) for value in known[name]] for name in ("mean", "std"))
        how = f"minus {mean}, divided by {std}, a number a channel{_assumed(facts)}"
        yield f"- Its values, divided by 255, are normalised: {how}."
    else:
        yield "- By what its values are normalised is not known."
    yield f"- B of them are `{INPUT}`, an array [B, 3, {size}, {size}] of float32."
    classes = facts["hyper_parameters"]["num_classes"]
    yield f"- `network({INPUT})` answers with logits [B, {classes}], of which the largest is the class."


def _graphs(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield in what the files that hold a graph differ."""
    files = " and ".join(f"`{row['file']}`" for row in report["files"] if FORMATS[row["format"]].graph)
    if report["normalise"]:
        yield f"- Not so for {files}: the images are values divided by 255 alone, in [0, 1], and normalised inside."
    if report["softmax"]:
        classes = report["hyper_parameters"]["num_classes"]
        yield f"- Not so for {files}: the answers are probabilities [B, {classes}], not logits."


def _file(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["file"], f"{row['bytes']:,}", f"{row['difference']:.2g} of {row['of']}"


def _about(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    network = report["hyper_parameters"]
    if row["format"] == "safetensors":
        return "By reslightning, which reads in its metadata all that stands above; images may be uint8, too."
    if row["format"] == "torch":
        if torchvision_call(network):
            return "A state dict, by torchvision alone."
        return f"A state dict. Torchvision has no such network as this {network['arch']}: reslightning builds it."
    inside = "It takes images in [0, 1], and normalises them itself. " if report["normalise"] else ""
    inside += "It answers with probabilities. " if report["softmax"] else ""
    by = "By onnxruntime alone" if row["format"] == "onnx" else "By torch alone"
    return f"{inside}{by}, for any number of images."
