"""How long a Trainer trains, which may be anybody's, and the schedule over that."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer

from reslightning.errors import UserError
from reslightning.train.optim import Factor, Schedule, make_factor


def steps_per_epoch(trainer: Trainer) -> int:
    """Return an epoch's optimizer steps by the length of the loader that trains already.

    Raises:
        UserError: it has none.
    """
    batches = trainer.num_training_batches
    if batches == math.inf:
        raise UserError(
            "the training loader has no length, so that nothing says how many steps an epoch has\nGive its data set "
            "__len__, or Trainer(limit_train_batches=N) with the number of batches that an epoch shall have."
        )
    return -(-int(batches) // trainer.accumulate_grad_batches)


def course(schedule: Schedule, trainer: Trainer, steps: int) -> Factor:
    """Return the schedule over a training whose epochs have so many steps.

    Raises:
        UserError: the training has no end to go by.
    """
    epochs = trainer.max_epochs or 0
    if epochs < 0:  # given in steps, or in time
        if trainer.max_steps < 0 and schedule.name != "constant":
            raise UserError(
                f"the schedule {schedule.name!r} goes by the training's length, and the Trainer has none\nGive "
                "Trainer(max_epochs=N), or ImageClassifier(schedule=Schedule(name='constant'))."
            )
        epochs = max(-(-trainer.max_steps // steps), 1)
    return make_factor(schedule, steps, epochs)
