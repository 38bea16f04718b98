"""analyze: what happens inside networks; one module a subject, and here what several share."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reslightning.cli.configs import load_config
from reslightning.errors import UserError, near_misses
from reslightning.files import check_file
from reslightning.models.architectures import Architecture, Network, resolve_options
from reslightning.run import layout
from reslightning.run.record import evaluation_checkpoint, read_summary

if TYPE_CHECKING:
    from torch import Tensor

    from reslightning.data.base import DataModule
    from reslightning.data.registry import Split

SUBJECTS = {
    "gradients": (
        "reslightning.commands.analyze_gradients",
        "how the loss's gradient flows through the blocks, and how much of it by the shortcuts",
    ),
    "responses": (
        "reslightning.commands.analyze_responses",
        "how strongly the 3x3 layers of trained networks respond: less with shortcuts, and with depth",
    ),
    "lesions": (
        "reslightning.commands.analyze_lesions",
        "what a trained network loses without some of its blocks, or with some of them swapped",
    ),
    "deep_gp": (
        "reslightning.commands.analyze_deep_gp",
        "what depth does to deep Gaussian processes, and whether residual structure saves them",
    ),
}
KINDS = {"train": "training", "val": "validation", "test": "test"}


def main(argv: list[str]) -> int:
    """Do what a subject's own module does."""
    words = argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(_usage(), end="")
        return 0
    if words[0] not in SUBJECTS:
        raise UserError(
            f"analyze knows no {words[0]!r}{near_misses(words[0], SUBJECTS)}\nallowed: {', '.join(SUBJECTS)}, in front "
            "of its options"
        )
    return int(importlib.import_module(SUBJECTS[words[0]][0]).main(words))


def _usage() -> str:
    rows = "\n".join(f"  {name:10} {text}" for name, (_, text) in SUBJECTS.items())
    return (
        "usage: reslightning analyze SUBJECT [OPTIONS]\n\n"
        f"Look at what happens inside networks.\n\n{rows}\n\n"
        "  reslightning analyze SUBJECT --help       a subject's options\n"
    )


def results_folder(to: Path | None, *names: str) -> Path | None:
    """Return the folder that results go to, if any, once it is known that files of these names can be written there.

    Raises:
        UserError: they cannot.
    """
    if to is None:
        return None
    folder = to.expanduser()
    for name in names:
        check_file(folder / name, "--to")
    return folder


def check_blocks(arch: str, network: Network) -> None:
    """Raise UserError for a network without blocks of this package's."""
    if not isinstance(network, Architecture):
        raise UserError(
            f"{arch} has no blocks, which are what is measured\nGive resnets or plain networks: `reslightning models` "
            "lists them."
        )


def check_trained(run: Path) -> str:
    """Return the network of a run, once it is known to be one of blocks that has a checkpoint.

    Raises:
        UserError: it is none.
    """
    check_run(run)
    arch = (load_config(run / layout.CONFIG).get("model") or {}).get("arch") or "resnet20"
    check_blocks(arch, resolve_options(arch, None, None))
    evaluation_checkpoint(run)
    return str(arch)


def check_run(run: Path) -> None:
    """Raise UserError where a directory is no run's."""
    if not (run / layout.CONFIG).is_file():
        raise UserError(f"{run} is no run directory: it has no config.yaml")


def chosen_data(run: Path | None, name: str | None, root: str | None, seed: int | None) -> DataModule:
    """Return a run's data, or that of another name, unread.

    Args:
        run: the run directory, if there is one.
        name: of a data set, in place of the run's; without either it is Digits.
        root: where it lies, in place of where the run found it.
        seed: by which images are drawn, in place of the run's.
    """
    from reslightning.data import registry

    config = load_config(run / layout.CONFIG) if run and not name else {}
    data = config.get("data") or {"class_path": name or "Digits"}
    options = dict(data.get("init_args") or {}) | {"num_workers": 0} | ({"root": root} if root else {})
    kind: Any = registry.load(data["class_path"])
    found: DataModule = kind(**options | {"seed": config.get("seed_everything") or 0 if seed is None else seed})
    if config and run:
        found.upright = bool((read_summary(run) or {}).get("exif_orientation", found.upright))
    return found


class Drawn(NamedTuple):
    """Images of a split.

    Attributes:
        images: how many.
        of: what they are, in words.
        batches: normalised images [B, 3, H, W], as an evaluation sees them, and labels [B].
    """

    images: int
    of: str
    batches: Iterator[tuple[Tensor, Tensor]]


def drawn(data: DataModule, split: Split, count: int | None, batch: int, option: str) -> Drawn:
    """Return images of a split, drawn by the data's seed.

    Args:
        data: of whose images.
        split: of which part.
        count: how many; None is all.
        batch: how many at a time.
        option: what asked for so many.

    Raises:
        UserError: there are not so many.
    """
    from reslightning.data.base import prepare

    with contextlib.redirect_stdout(sys.stderr):  # what is said of the images is no result
        prepare(data)
    there, kind = images_there(data, split), KINDS[split]
    if (count or 0) > there:
        raise UserError(f"{option} {count} is more than there are {kind} images; allowed: at most {there:,}")
    return Drawn(
        count or there, f"{kind} images of {type(data).__name__}", _batches(data, split, count or there, batch)
    )


def images_there(data: DataModule, split: Split) -> int:
    """Return how many images a split has.

    Raises:
        UserError: it has none.
    """
    if there := data.n_samples(split):
        return there
    name = type(data).__name__
    raise UserError(f"{name} at {data.root} has no labelled {KINDS[split]} images\nGive --root DIR that has some.")


def _batches(data: DataModule, split: Split, count: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    from reslightning.data.sampler import WholeBatches

    sampler = WholeBatches(data.n_samples(split), count, batch, seed=data.seed, rank=0, world_size=1)
    for content in data.loader(split, sampler, batch):
        data.indices(content)  # or the message about a corrupt image
        yield data.evaluation_batch(content, split)  # type: ignore[misc]  # of no protocol's views
