"""What a finished training leaves for the eye: its confusion matrix, and the images it got most wrong and right."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw
from torch import Tensor

from reslightning.data.base import DataModule
from reslightning.errors import TrainingError
from reslightning.files import printable, write_atomically
from reslightning.run import layout
from reslightning.train.metrics import count_guesses

SHOWN, COLUMNS = 24, 6
SIDE, CAPTION = 128, 34  # pixels of a picture, and of the words below it
LETTERS = 20  # of a class's name


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
            write_findings(samples, trainer.datamodule, self.folder)  # type: ignore[attr-defined]
        except OSError as error:
            raise TrainingError(
                f"the training is whole, but its findings could not be made in {self.folder}: {error}\n"
                "Mend that, and the same command makes them."
            ) from error


def write_findings(samples: Tensor, data: DataModule, folder: Path) -> None:
    """Write the confusion matrix, rows the classes, and sheets of the worst and of the surest validation images.

    Args:
        samples: [N, 5], the validation part's index, label, guess, the guess's probability, and loss.
        data: the data module they are from.
        folder: where the files go.
    """
    folder.mkdir(exist_ok=True)
    names = [printable(name) for name in data.class_names]
    write_atomically(folder / layout.CONFUSION, _confusion(samples, names))
    by_loss = samples[samples[:, 4].argsort()]
    for name, shown in ((layout.WORST, by_loss.flip(0)), (layout.SUREST, by_loss)):
        content = io.BytesIO()
        _sheet(shown[:SHOWN], data, names).save(content, "PNG")
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


def _sheet(samples: Tensor, data: DataModule, names: list[str]) -> Image.Image:
    rows = -(-len(samples) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + 8), rows * (SIDE + CAPTION + 8)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (index, label, guess, share, _) in enumerate(samples.tolist()):
        left, top = number % COLUMNS * (SIDE + 8) + 4, number // COLUMNS * (SIDE + CAPTION + 8) + 4
        picture = Image.fromarray(np.ascontiguousarray(data.picture("val", int(index))))
        sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
        words = f"{names[int(label)][:LETTERS]}\ntaken for {names[int(guess)][: LETTERS - 7]} {100 * share:.0f} %"
        draw.multiline_text((left, top + SIDE + 2), words, "black")
    return sheet
