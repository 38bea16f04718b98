"""A trained network in files that leave the package, each checked by what it answers."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslightning.data import augmentations
from reslightning.data.indexing import some
from reslightning.errors import TrainingError, UserError
from reslightning.evaluation.card import card
from reslightning.evaluation.formats import FORMATS
from reslightning.evaluation.trained import Trained, pictures
from reslightning.files import check_folder, exclusive, finite, folder, printable, read_json, written

README, FACTS = "README.md", "export.json"
OWN = {README, FACTS, *(row.file for row in FORMATS.values())}
STARTED = ".export-"  # how the folder's name begins in which files lie until all of them are there
PICTURES = 20
TOLERANCE = 1e-3  # of the largest logit, or of 1


class Normalise(nn.Module):
    """Maps images [B, 3, H, W] in [0, 1] to (x - mean) / std, for mean and std [3]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Map images to what a network takes."""
        return (images - self.mean) / self.std


def check_place(to: Path, source: str) -> None:
    """Raise UserError where a folder could not be written, or holds other files than an export's, or what is exported.

    Args:
        to: the folder.
        source: a run directory or weights, see ``read_trained``.
    """
    if to.exists() and not to.is_dir():
        raise UserError(f"--to {to} is a file; allowed: a folder, which is made if it is not there")
    _check_apart(to, source)
    try:
        check_folder(to)
        names = sorted(path.name for path in to.iterdir()) if to.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f"--to {to} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    there = [printable(name) for name in names if not name.startswith(STARTED)]  # those a killed export has left
    others = [name for name in there if name not in OWN]
    if others or (there and not (to / FACTS).is_file()):
        raise UserError(
            f"--to {to} holds other files than an export's: {some(others or there)}\nGive a folder that is new or "
            "empty, or that an export of the same run has made."
        )


def _check_apart(to: Path, source: str) -> None:
    for name in (source, source.rpartition("#")[0]):  # a file of several weights
        file, inside = Path(name).expanduser(), False
        with contextlib.suppress(OSError, ValueError):  # no name that a file can have
            inside = file.is_file() and to.resolve() in (file.resolve().parent, file.parent.resolve())
        if inside:
            raise UserError(
                f"{name} lies in --to {to}, whose files an export replaces or removes\nGive another folder."
            )


def check_same(to: Path, trained: Trained) -> None:
    """Raise UserError where a folder holds the export of another run."""
    if not (to / FACTS).exists():
        return
    said, _ = read_json(to / FACTS)
    there, here = (facts.get("trained") or {} for facts in (said, trained.facts))
    if there.get("of") != here.get("of"):
        raise UserError(
            f"--to {to} holds an export of {_called(there)}, and this is one of {_called(here)}\nGive another folder, "
            "or remove that one."
        )


def _called(facts: dict[str, Any]) -> str:
    return f"the run {facts['run']}" if "run" in facts else str(facts.get("of", "another network"))


@torch.no_grad()
def export(
    trained: Trained, to: Path, formats: Sequence[str], *, normalise: bool = False, softmax: bool = False
) -> dict[str, Any]:
    """Write a network into a folder in several formats, with a README.md, and return what was written.

    Each file is read back, and its answers are compared with the network's. All files lie in the folder, or those that
    lay there before.

    Args:
        trained: the network.
        to: the folder.
        formats: names of ``FORMATS``.
        normalise: let graphs take images in [0, 1] and normalise them.
        softmax: let graphs answer with probabilities.

    Raises:
        UserError: it cannot be written, or ``normalise`` is asked for and no normalisation is known.
        TrainingError: a file does not answer as the network does.
    """
    images, words = pictures(trained, PICTURES)
    ways = {False: _way(trained, images), True: _way(trained, images, normalise=normalise, softmax=softmax)}
    answers = {graph: network(taken) for graph, (network, taken) in ways.items()}
    _check_finite(trained, answers[False], words)
    report = trained.facts | {"format": 1, "normalise": normalise, "softmax": softmax, "pictures": words, "files": []}
    with folder(to), _alone(to), tempfile.TemporaryDirectory(prefix=STARTED, dir=to) as made:
        check_same(to, trained)  # which another process may have written meanwhile
        for name in formats:
            row, path = FORMATS[name], Path(made) / FORMATS[name].file
            network, taken = ways[row.graph]
            with written(path) as file:
                row.write(network, trained.facts, trained.image_size, file)
            difference = _difference(name, row.read(path, trained.facts)(taken), answers[row.graph], words)
            what = "probabilities" if row.graph and softmax else "logits"
            report["files"].append(
                {"format": name, "file": row.file, "bytes": path.stat().st_size, "difference": difference, "of": what}
            )
        _write(Path(made) / FACTS, json.dumps(finite(report), indent=2) + "\n")
        _write(Path(made) / README, card(trained, report))
        _replace(to, Path(made))
    return report


@contextlib.contextmanager
def _alone(to: Path) -> Iterator[None]:
    """Be the only process that exports into a folder."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(to / f"{STARTED}lock", wait=False))
        except TimeoutError as error:
            raise UserError(
                f"another process is exporting into --to {to}\nWait until it is done, or give another folder."
            ) from error
        except OSError as error:
            raise UserError(f"--to {to} cannot be written: {error.strerror or error}") from error
        yield


def _check_finite(trained: Trained, answers: Tensor, words: str) -> None:
    """Raise UserError where a network does not answer with numbers, which no file could then be compared by."""
    if answers.isfinite().all():
        return
    state = trained.network.state_dict()
    wrong = [name for name, value in state.items() if not value.isfinite().all()]
    why = f"neither are its weights, {some(wrong)}" if wrong else "its weights are, and too large"
    raise UserError(
        f"the network's answers are no finite numbers, on {words}; {why}\nNothing is exported. Its training has "
        "diverged perhaps, or the file is damaged: give other weights, an earlier checkpoint say."
    )


def _way(
    trained: Trained, images: Tensor, *, normalise: bool = False, softmax: bool = False
) -> tuple[nn.Module, Tensor]:
    """Return what is exported, and of images [B, 3, H, W], uint8, what it takes."""
    known, plain = trained.normalisation(), images.float() / 255
    if normalise and known is None:
        raise UserError(
            "--normalise needs to know by what images were normalised, which these weights do not say\nLeave it out."
        )
    before = [Normalise(*known)] if normalise and known else []
    behind = [nn.Softmax(1)] if softmax else []
    network = nn.Sequential(*before, trained.network, *behind).eval() if before or behind else trained.network
    return network, plain if normalise or known is None else augmentations.normalize(images, *known)


def _difference(name: str, answers: Tensor, expected: Tensor, words: str) -> float:
    """Return the largest difference of what a file and the network answer."""
    difference = float((answers - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise TrainingError(
            f"the exported {FORMATS[name].file} does not compute what the network computes: its answers differ by up "
            f"to {difference:.2g} on {words}; nothing is written\nLeave out the format {name}."
        )
    return difference


def _write(path: Path, text: str) -> None:
    with written(path) as file:
        file.write(text.encode())


def _replace(to: Path, made: Path) -> None:
    """Put files that are whole in the place of those before."""
    new = {path.name for path in made.iterdir()}
    (made / FACTS).replace(to / FACTS)  # which says that the folder is an export's, wherever this is stopped
    for name in sorted(new - {FACTS}):
        (made / name).replace(to / name)
    for name in OWN - new:
        (to / name).unlink(missing_ok=True)
    for killed in to.glob(f"{STARTED}*"):
        if killed.name != made.name:
            shutil.rmtree(killed, ignore_errors=True)
