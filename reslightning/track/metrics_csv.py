"""metrics.csv: a row of metrics an epoch, appended to, and cut back to what a checkpoint knows of."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from reslightning.files import write_atomically


class MetricsCSV(Logger):
    """Appends rows of metrics to a file, and on resume goes on behind the checkpoint's last row.

    It is a Logger, so that callbacks which want one find one in every process; a row is the whole epoch's, and they
    write none.
    """

    COLUMNS = (
        *("epoch", "step", "train/loss", "train/top1", "val/loss", "val/top1", "val/top5"),
        *("val/n_samples", "lr", "images_per_second", "data_wait", "samples", "grad_norm"),
        *("val/balanced", "val/calibration"),
    )

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows = 0
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def version(self) -> str:
        """There is one file a run."""
        return ""

    def keep(self, rows: int) -> None:
        """Drop what lies behind the first ``rows`` rows: it will be trained again."""
        self.rows = 0
        if not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines[: rows + 1] if line.endswith(b"\n")]
        with self.path.open("r+b") as file:
            file.truncate(sum(map(len, kept)))
        self.rows = max(len(kept) - 1, 0)
        self._columns = next(csv.reader([kept[0].decode()])) if kept else []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take nothing of what callbacks log at any step."""

    @rank_zero_only
    def append(self, metrics: Mapping[str, float], step: int) -> None:
        """Append an epoch's row."""
        row: dict[str, Any] = {"step": step, **metrics}
        if new := [name for name in row if name not in self._columns]:
            self._widen(new)
        with self.path.open("a", newline="") as file:
            file.write(_line([_text(row.get(name)) for name in self._columns]))
        self.rows += 1

    def _widen(self, new: list[str]) -> None:
        if self._columns:
            with self.path.open(newline="") as file:
                rows = list(csv.reader(file))[1:]
        else:
            rows, self._columns = [], list(self.COLUMNS)
        self._columns += [name for name in new if name not in self._columns]
        padded = [row + [""] * (len(self._columns) - len(row)) for row in rows]
        write_atomically(self.path, "".join(map(_line, [self._columns, *padded])))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """config.yaml has them."""


def _text(value: Any) -> str:
    if value is None:
        return ""
    number = float(value)
    return str(int(number)) if number.is_integer() and not isinstance(value, float) else repr(number)


def _line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
