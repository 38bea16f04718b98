"""What a finished training leaves for the eye: its confusion matrix, and the images it got most wrong and right."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path, PurePath

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from reslightning.data.base import DataModule
from reslightning.errors import TrainingError
from reslightning.evaluation.sheet import Cell, sheet
from reslightning.files import printable, write_atomically
from reslightning.run import layout
from reslightning.train.metrics import count_guesses

SHOWN = 24  # images of a sheet


class Findings(Callback):
    """Leaves the findings of a training's last validation in its run directory."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / layout.EVALUATIONS

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them, on the first process, which has the samples of all."""
        samples = pl_module.samples
        if not trainer.is_global_zero or not isinstance(samples, Tensor):
            return
        try:
            write_findings(samples, trainer.datamodule, self.folder, str(pl_module.hparams["arch"]))  # type: ignore[attr-defined]
        except OSError as error:
            raise TrainingError(
                f"the training is whole, but its findings could not be made in {self.folder}: {error}\n"
                "Mend that, and the same command makes them."
            ) from error


def write_findings(samples: Tensor, data: DataModule, folder: Path, arch: str) -> None:
    """Write the confusion matrix, rows the classes, and sheets of the worst and of the surest validation images.

    Args:
        samples: [N, 5], the validation part's index, label, guess, the guess's probability, and loss.
        data: the data module they are from.
        folder: where the files go.
        arch: what the network is called, for the sheets' titles.
    """
    folder.mkdir(exist_ok=True)
    names = [printable(name) for name in data.class_names]
    write_atomically(folder / layout.CONFUSION, _confusion(samples, names))
    by_loss = samples[samples[:, 4].argsort()]
    sheets = ((layout.WORST, "worst", "largest", by_loss.flip(0)), (layout.SUREST, "surest", "smallest", by_loss))
    for name, what, size, shown in sheets:
        cells = _cells(shown[:SHOWN], data, names)
        wrong = sum(cell.wrong for cell in cells)
        title = (
            f"{arch} on {type(data).__name__}: the {len(cells)} {what} of {len(samples):,} validation images, those of "
            f"the {size} loss\nwrong: {wrong}{', framed and marked ✗' if wrong else ''}"
        )
        content = io.BytesIO()
        sheet(cells, title).save(content, "PNG")
        write_atomically(folder / name, content.getvalue())


def _confusion(samples: Tensor, names: list[str]) -> str:
    labels, guesses = samples[:, 1].long(), samples[:, 2].long()
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)
    count_guesses(counts, labels, guesses)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *names])
    writer.writerows([name, *row] for name, row in zip(names, counts.tolist(), strict=True))
    return text.getvalue()


def _cells(samples: Tensor, data: DataModule, names: list[str]) -> list[Cell]:
    """Return pictures with what they are, and what they were taken for."""
    cells = []
    for index, label, guess, share, loss in samples.tolist():
        number, truth, answer = int(index), names[int(label)], names[int(guess)]
        file = PurePath(data.file("val", number)).name or data.image_name("val", number)
        lines = [file, f"true: {truth} ({100 * math.exp(-loss):.0f} %)", f"taken for: {answer} ({100 * share:.0f} %)"]
        cells.append(Cell(data.picture("val", number), lines, wrong=label != guess))
    return cells
