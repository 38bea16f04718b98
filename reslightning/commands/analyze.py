"""analyze: what happens inside networks; one module a subject."""

from __future__ import annotations

import importlib

from reslightning.errors import UserError, near_misses

SUBJECTS = {
    "gradients": (
        "reslightning.commands.analyze_gradients",
        "how the loss's gradient flows through the blocks, and how much of it by the shortcuts",
    ),
    "deep_gp": (
        "reslightning.commands.analyze_deep_gp",
        "what depth does to deep Gaussian processes, and whether residual structure saves them",
    ),
}


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
