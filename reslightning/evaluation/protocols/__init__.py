"""Test protocols, found by name: one file each, and a row of the table."""

from __future__ import annotations

from reslightning.errors import UserError, near_misses
from reslightning.evaluation.protocol import Average, Protocol
from reslightning.evaluation.protocols.center import Center
from reslightning.evaluation.protocols.dense import Dense
from reslightning.evaluation.protocols.flip import Flip
from reslightning.evaluation.protocols.multi_scale import MultiScale
from reslightning.evaluation.protocols.ten_crop import TenCrop
from reslightning.train.classifier import ImageClassifier

PROTOCOLS: dict[str, type[Protocol]] = {row.name: row for row in (Center, Flip, TenCrop, Dense, MultiScale)}


def as_trained(model: ImageClassifier) -> Protocol:
    """Return how a training validates its network."""
    return Flip("logits") if model.hparams["test_flip"] else Center()


def choose(names: str | None, average: Average | None) -> list[Protocol]:
    """Return the protocols of a command line, each once; none where it names none.

    Args:
        names: several with commas between them.
        average: what their views' scores are averaged as; None is each one's own.

    Raises:
        UserError: there is no such protocol, or nothing to average.
    """
    rows = []
    for name in dict.fromkeys(word.strip() for word in names.split(",")) if names else ():
        if name not in PROTOCOLS:
            near = near_misses(name, PROTOCOLS)
            raise UserError(
                f"unknown protocol {name!r}{near}\nallowed: {', '.join(PROTOCOLS)}; several with commas between them"
            )
        rows.append(PROTOCOLS[name])
    if average and not any(row.averages for row in rows):
        several = ", ".join(name for name, row in PROTOCOLS.items() if row.averages)
        raise UserError(f"--average {average} has no views to average\nGive --protocol with one of: {several}.")
    return [row(average or "probabilities") for row in rows]
