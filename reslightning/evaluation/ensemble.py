"""Ensembles: several networks' probabilities of the same images, averaged (arXiv:1512.03385, Table 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from reslightning.errors import UserError
from reslightning.evaluation.answers import FACTS, Answers

SHOWN = 10  # names in a message


def aligned(members: Mapping[str, Answers]) -> dict[str, Answers]:
    """Return members with images and classes in the order of the first one's, matched by their names.

    Raises:
        UserError: one of them saw other images, or classes or labels differ.
    """
    first_name, first = next(iter(members.items()))
    return {name: _as(first, first_name, one, name) for name, one in members.items()}


def _as(first: Answers, first_name: str, one: Answers, name: str) -> Answers:
    both = f"{first_name} and {name}"
    if sorted(one.classes) != sorted(first.classes):
        raise UserError(f"{both} know other classes, and have no average:\n" + _differing(first.classes, one.classes))
    if one.classes != first.classes and len(set(one.classes)) < len(one.classes):
        raise UserError(f"{both} have their classes in different orders, and some names are of several classes")
    there, here = sorted(first.names.tolist()), sorted(one.names.tolist())
    if there != here:
        raise UserError(f"{both} saw other images, and have no average:\n" + _differing(there, here))
    ours, theirs = (answers.facts["fingerprint"]["data"] for answers in (first, one))
    if ours != theirs and not first.facts["files"]:
        raise UserError(f"{both} saw other images, and have no average: their data is {ours} and {theirs}")
    columns = list(range(len(first.classes)))
    if one.classes != first.classes:
        columns = [one.classes.index(known) for known in first.classes]
    rows = one.names.argsort()[first.names.argsort().argsort()]
    labels = np.argsort(columns)[one.labels[rows]]
    if wrong := np.flatnonzero(labels != first.labels).tolist():
        said = [
            f"  {first.names[row]}: {first.classes[first.labels[row]]}, {first.classes[labels[row]]}"
            for row in wrong[:SHOWN]
        ]
        more = [f"  and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise UserError(f"{both} have other labels of {len(wrong)} images:\n" + "\n".join([*said, *more]))
    return Answers(first.names, first.labels, one.probabilities[rows][:, columns], first.classes, one.facts)


def _differing(ours: Iterable[str], theirs: Iterable[str]) -> str:
    """Return in words which names only one of two has."""
    one, other = set(ours), set(theirs)
    lines = []
    for which, names in (("first", sorted(one - other)), ("second", sorted(other - one))):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  {len(names)} in the {which} alone: {', '.join(names[:SHOWN])}{more}")
    return "\n".join(lines)


def ensemble(members: Sequence[Answers], weights: Sequence[float]) -> Answers:
    """Return the average of members' probabilities, of the same images in the same order.

    Args:
        members: one or more.
        weights: of each, 0 or more, not all 0; what counts is their ratio.
    """
    first, total = members[0], float(sum(weights))
    summed = sum(weight * member.probabilities for weight, member in zip(weights, members, strict=True))
    facts = {name: first.facts[name] for name in FACTS}
    facts |= {"members": [dict(member.facts) for member in members], "weights": list(weights)}
    return Answers(first.names, first.labels, np.asarray(summed) / total, first.classes, facts)
