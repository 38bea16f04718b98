"""Gradients at every block while a network is trained, as a callback that changes nothing of the training."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from reslightning.analysis.gradient_figures import draw_map
from reslightning.analysis.gradient_flow import Flow, Tape, cells
from reslightning.compare.figures import write_figure
from reslightning.errors import UserError
from reslightning.files import write_atomically
from reslightning.ranges import Range, check_values
from reslightning.run import layout

COLUMNS = ("step", "number", *Flow._fields)


class GradientFlow(Callback):
    """Records the gradients at every block, see ``Flow``: in gradients.csv, and of dL/dz in loggers and a heat map.

    They are those of the training's own forward and backward pass, of the first process's first micro-batch of a step,
    for its mean loss, before anything is clipped. The files lie in the run's ``evaluations/``, without a run in
    ``trainer.default_root_dir``. A training has the same bits with and without.

    Args:
        every_n_steps: steps from one record to the next, each of which costs about as much as two.
    """

    folder: Path | None = None  # where the files go; a run says it

    def __init__(self, every_n_steps: Annotated[int, Range("1 or more")] = 50) -> None:
        check_values(GradientFlow, {"every_n_steps": every_n_steps}, "trainer.callbacks")
        self.every_n_steps = every_n_steps
        self._tape: Tape | None = None
        self._recorded = -1  # the last step

    @property
    def file(self) -> Path:
        """Where the numbers go."""
        return (self.folder or Path()) / layout.GRADIENTS

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at what is trained."""
        if stage == "fit":
            check_recording([self], pl_module)
        self.folder = self.folder or Path(trainer.default_root_dir)
        trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # which keeps nothing
        self._writes = trainer.is_global_zero and not trial

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop what was recorded behind the checkpoint that training goes on from: it will be again."""
        self._recorded = -1
        if self._writes:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            kept = [row for row in _read(self.file) if int(row[0]) < trainer.global_step]
            write_atomically(self.file, _lines([list(COLUMNS), *kept]))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the batch's forward and backward pass, where its step's turn has come."""
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self._recorded:
            self._recorded = step
            self._tape = Tape(_network(pl_module)).__enter__()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what was seen."""
        if self._tape is None:
            return
        tape, self._tape = self._tape, None
        tape.__exit__()
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # of 16-mixed, which multiplies the loss
        scale = trainer.accumulate_grad_batches / (scaler.get_scale() if scaler else 1.0)
        with trainer.precision_plugin.forward_context():
            flows = tape.flows(scale)
        numbers = {name: number for number, name in enumerate(tape.blocks, start=1)}
        if self._writes:
            with self.file.open("a", newline="") as file:
                file.write(_lines([[str(self._recorded), str(numbers[one.block]), *cells(one)] for one in flows]))
        for logger in trainer.loggers:
            logger.log_metrics({f"gradients/{one.block}": one.dz for one in flows}, step=self._recorded)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the network as it was."""
        if self._tape:
            self._tape.__exit__()
            self._tape = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was recorded."""
        rows = _read(self.file) if self._writes else []
        steps = sorted({int(row[0]) for row in rows})
        if len(steps) < 2:
            return
        blocks = max(int(row[1]) for row in rows)
        norms = {step: [math.nan] * blocks for step in steps}
        for row in rows:
            norms[int(row[0])][int(row[1]) - 1] = float(row[COLUMNS.index("dz")])
        title = f"gradients in training, at the blocks of {getattr(pl_module, 'arch', type(pl_module).__name__)}"
        write_figure(draw_map(steps, [*norms.values()], title), self.file.with_name(layout.GRADIENT_MAP))


def check_recording(callbacks: Sequence[Callback], module: LightningModule) -> None:
    """Raise UserError where gradients cannot be recorded: of what has no blocks, or is compiled; or are twice."""
    count = sum(isinstance(callback, GradientFlow) for callback in callbacks)
    if count > 1:
        raise UserError("the callback GradientFlow is given twice, and would write one file twice\nGive it once.")
    if count and module.hparams.get("compile"):
        raise UserError(
            "the callback GradientFlow looks at every block, and the compiled network has none to look at\nLeave out "
            "model.compile, or the callback."
        )
    if count:
        Tape(_network(module), str(getattr(module, "arch", type(module).__name__)))


def _network(module: LightningModule) -> Any:
    return getattr(module, "model", module)


def _read(path: Path) -> list[list[str]]:
    """Return the rows of a file that are whole; none where there is no file of ours."""
    if not path.is_file():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    header, *rows = list(csv.reader(lines)) or [[]]
    return rows if header == list(COLUMNS) else []


def _lines(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
