"""What Lightning says, and a command says better or means to do, is not heard while it runs."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

# What Lightning says of what is by design.
BY_DESIGN = (
    ".*does not have many workers.*",  # loaders move indices
    ".*ended before the epoch ended and your dataloader is not resumable.*",  # the sampler is
    ".*is smaller than the logging interval.*",  # rows are written per epoch
    ".*LeafSpec.*",  # Lightning's own use of torch
    ".*The `srun` command is available on your system but is not used.*",  # a login node is fine
    r".*recommended to use `self.log\(.*sync_dist=True.*",  # sums are reduced before they are logged
    ".*all_gather is deprecated.*",  # Lightning's own use of torch
    ".*AMP with fp16 is not supported on CPU.*",  # a training is refused; an evaluation says its precision
    ".*in eval mode at the start of training.*",  # frozen stages
    ".*SWA is currently only supported every epoch.*",  # it takes the place of a schedule over steps
    ".*Checkpoint directory .* exists and is not empty.*",  # of a run that goes on
    "(?s).*Unable to serialize instance cpu.*",  # it is serialized
)
LEVELS = {
    "pytorch": logging.WARNING,
    "fabric": logging.WARNING,
    "pytorch.callbacks.early_stopping": logging.INFO,  # which say on this level what they are given for
    "pytorch.callbacks.model_summary": logging.INFO,
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence for a while what Lightning says and a run's own first lines say better, or what is by design."""
    levels = {logging.getLogger(f"lightning.{name}"): level for name, level in LEVELS.items()}
    before = {logger: logger.level for logger in levels}
    with warnings.catch_warnings():
        for logger, level in levels.items():
            logger.setLevel(level)
        for message in BY_DESIGN:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger in levels:
                logger.setLevel(before[logger])
