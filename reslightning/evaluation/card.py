"""The README.md beside exported files: what the network is and how it is used (model cards, arXiv:1810.03993)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from reslightning import __version__
from reslightning.evaluation.certainty import wilson
from reslightning.evaluation.formats import FORMATS, INPUT, torchvision_call
from reslightning.evaluation.trained import Trained
from reslightning.files import printable
from reslightning.run.summary import error_percent

SHOWN = 10  # classes
PARTS = {"train": "training images that were held out", "held-out": "training images that were held out"}
PARTS |= {"val": "validation images", "test": "test images"}


def card(trained: Trained, report: Mapping[str, Any]) -> str:
    """Return the text.

    Args:
        trained: the network.
        report: what ``export`` returns.
    """
    network, facts = trained.facts["hyper_parameters"], trained.facts
    sections = [
        f"# {network['arch']}, {_plural(network['num_classes'], 'class', 'classes')}",
        _table(["", ""], [(name, _cell(text)) for name, text in _facts(trained)]),
        "## Result",
        _results(facts["trained"].get("results") or []),
        "## From a picture to its class",
        "\n".join(_input(facts, trained.image_size)),
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
    options = [f"{name} {network[name]}" for name in ("shortcut", "version") if network[name]]
    parameters = sum(value.numel() for value in trained.network.parameters())
    yield "network", f"{', '.join([network['arch'], *options])}: {parameters:,} parameters"
    if "dataset" in of:
        content = f", content {of['data']}" if "data" in of else ""
        yield "trained on", f"{of['dataset']}, {of.get('images', 0):,} images{content}"
    if "licence" in of:
        yield "licence of the data", str(of["licence"])
    if "run" in of:
        seed = f", seed {of['seed']}" if "seed" in of else ""
        epoch = f", behind epoch {of['epoch']}" if "epoch" in of else ""
        yield "run", f"{of['run']} ({of['of']}){seed}{epoch}"
    else:
        yield "weights", str(of["of"])
    for line in of.get("assumed", ()):
        yield "assumed", line
    if names := facts.get("class_names"):
        rest = f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        yield "classes", ", ".join(names[:SHOWN]) + rest
    yield "made by", f"reslightning {__version__}"


def _cell(name: str) -> str:
    return printable(name).replace("|", "\\|")


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
        rows.append((images, row["protocol"], f"{error_percent(row['top1']):.2f} % ({between})", top5))
    return _table(["images", "protocol", "top-1 error (95 % interval)", "top-5 error"], rows)


def _input(facts: Mapping[str, Any], size: int) -> Iterator[str]:
    sizes, known = facts.get("sizes") or {}, facts.get("normalisation")
    yield "- It is read as RGB, in this order of the channels."
    if sizes.get("eval_resize"):
        if (upright := facts.get("exif_orientation")) is not None:
            yield f"- It is {'turned upright as' if upright else 'not turned, whatever'} its EXIF data says."
        yield (
            f"- Its shorter side is scaled to {sizes['eval_resize']} pixels ({sizes['interpolation']}, with "
            f"antialiasing), and of that the middle {sizes['eval_size']} x {sizes['eval_size']} is taken."
        )
    elif sizes:
        yield f"- It has {size} x {size} pixels, and is taken as it is."
    else:
        yield f"- It has {size} x {size} pixels; how the training's came to their size is not known."
    if known:
        mean, std = ([round(value, 6) for value in known[name]] for name in ("mean", "std"))
        yield f"- Its values, divided by 255, are normalised: minus {mean}, divided by {std}, a number a channel."
    else:
        yield "- By what its values are normalised is not known."
    yield f"- B of them are `{INPUT}`, an array [B, 3, {size}, {size}] of float32."
    classes = facts["hyper_parameters"]["num_classes"]
    yield f"- `network({INPUT})` answers with logits [B, {classes}], of which the largest is the class."


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
