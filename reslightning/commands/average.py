"""average: one network with the average of several's weights, as of a training's last epochs or of fine-tunings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import NonNegativeInt

from reslightning.cli.choice import check_output
from reslightning.cli.configs import load_config
from reslightning.cli.parser import CommandParser
from reslightning.errors import UserError
from reslightning.files import check_file, written
from reslightning.run import layout
from reslightning.run.record import read_summary, run_of, weights_file

if TYPE_CHECKING:
    from torch import Tensor

    from reslightning.data.base import DataModule

IMAGES = 10_000  # of training, where a data set has so many
NETWORK = ("arch", "num_classes", "shortcut", "version", "norm")
KEPT = ("hyper_parameters", "class_names", "class_ids", "normalisation", "sizes")


def main(argv: list[str]) -> int:
    """Average, recalibrate and write."""
    parser = CommandParser(
        prog="reslightning average",
        description="Average the weights of several checkpoints of one network (arXiv:1803.05407, arXiv:2203.05482), "
        "and the statistics of its batch normalisation anew over training images. The result is one network, no "
        "ensemble: of trainings from different starts it is seldom a good one, and reslightning test says so.",
    )
    text = "run directories or checkpoints, two or more"
    parser.add_argument("members", nargs="+", type=Path, metavar="RUN_OR_CHECKPOINT", help=text)
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="the checkpoint to write")
    text = f"training images for batch statistics (default: {IMAGES:,}, or all); 0 averages the statistics, too"
    parser.add_argument("--recalibrate", type=NonNegativeInt, metavar="N", help=text)
    text = "where the training images lie (default: where the first member's run found them)"
    parser.add_argument("--root", type=Path, metavar="DIR", help=text)
    args = parser.parse_args(argv[1:])
    to = args.to.expanduser()
    check_output(str(to), "--to")
    check_file(to, "--to")
    files = [Path(weights_file(str(member))).expanduser() for member in args.members]
    if len(set(files)) < 2:
        raise UserError(f"an average needs two checkpoints or more; given: {', '.join(map(str, args.members))}")
    from reslightning.models.checkpoint import read_checkpoint
    from reslightning.models.foreign import read_weights

    contents = [read_checkpoint(file) for file in files]
    _check_alike(files, contents)
    data = None if args.recalibrate == 0 else _training_data(files[0], args.root)
    state, images = averaged([read_weights(one, str(file)).state for file, one in zip(files, contents, strict=True)]), 0
    if data:
        state, images = _recalibrated(contents[0]["hyper_parameters"], state, data, args.recalibrate)
    kept = {name: contents[0][name] for name in KEPT if name in contents[0]}
    of = {"members": [str(file) for file in files], "recalibrated": images}
    import torch

    with written(to) as file:
        torch.save(
            {"state_dict": {f"model.{name}": value for name, value in state.items()}, **kept, "average": of}, file
        )
    statistics = f"batch statistics over {images:,} training images" if images else "batch statistics averaged, too"
    print(f"the average of {len(files)} networks' weights, {statistics}, written to {to}")
    if (run := run_of(files[0])) is not None:
        print(f"what it is worth: reslightning test --run_dir {run} --ckpt_path {to}")
    return 0


def averaged(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of state dicts' tensors, taken in float64; of whole numbers the first one's."""
    import torch

    found = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            found[name] = torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        else:
            found[name] = first
    return found


def _check_alike(files: Sequence[Path], contents: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError where members are not of one network, its classes and its normalisation."""
    facts = []
    for file, content in zip(files, contents, strict=True):
        network = content.get("hyper_parameters")
        if not isinstance(network, Mapping) or "arch" not in network:
            raise UserError(f"{file} is no checkpoint of a training: it does not say of which network")
        own = {f"model.{name}": network.get(name) for name in NETWORK}
        facts.append(own | {name: content.get(name) for name in ("class_names", "normalisation")})
    for file, found in zip(files[1:], facts[1:], strict=True):
        lines = [
            f"  {name}: {facts[0][name]} there, {value} here"
            for name, value in found.items()
            if value != facts[0][name]
        ]
        if lines:
            raise UserError(f"{files[0]} and {file} are not of one network, and have no average:\n" + "\n".join(lines))


def _training_data(checkpoint: Path, root: Path | None) -> DataModule:
    """Return the data that a checkpoint's run was trained on."""
    from reslightning.train.restored import of_config

    if (run := run_of(checkpoint)) is None:
        raise UserError(
            f"{checkpoint} lies in no run directory, which would say what it was trained on\nGive a run, or a "
            "checkpoint in its checkpoints/, first, or --recalibrate 0 to average the statistics, too."
        )
    config, summary = load_config(run / layout.CONFIG), read_summary(run) or {}
    given = ({"root": str(root)} if root else {}) | {"seed": config.get("seed_everything") or 0}
    try:
        data = of_config(config, **given)
    except (UserError, KeyError, TypeError) as error:
        raise UserError(
            f"{run / layout.CONFIG} does not say what {run} was trained on: {error}\nGive --recalibrate 0 to average "
            "the statistics, too."
        ) from error
    data.upright = bool(summary.get("exif_orientation", data.upright))
    there = (summary.get("fingerprint") or {}).get("data")
    if there and there["digest"] != data.content()["digest"]:
        raise UserError(
            f"{data.root} is not what {run} was trained on: {there['digest']} there, {data.content()['digest']} here\n"
            "Give the images that it had by --root, or --recalibrate 0 to average the statistics, too."
        )
    return data


def _recalibrated(
    network: Mapping[str, Any], state: Mapping[str, Tensor], data: DataModule, asked: int | None
) -> tuple[dict[str, Tensor], int]:
    from lightning.pytorch import Trainer

    from reslightning.cli.quiet import quiet
    from reslightning.data.base import prepare
    from reslightning.evaluation.recalibrate import recalibrate
    from reslightning.train.classifier import ImageClassifier

    model = ImageClassifier(**network)
    model.model.load_state_dict(state)
    prepare(data)
    images = (
        min(IMAGES, data.n_samples("train")) if asked is None else int(asked)
    )  # the parser's kind of int is no plain value
    with quiet():
        trainer = Trainer(devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        recalibrate(trainer, model, data, images)
    return model.model.state_dict(), images
