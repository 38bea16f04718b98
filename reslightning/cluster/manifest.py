"""A manifest: a file whose lines hold the options of one training each, for the tasks of a job array."""

from __future__ import annotations

import os
import re
from pathlib import Path

from reslightning.errors import UserError

_QUOTED = r"""\\.|'[^']*'|"(?:[^"\\$`]|\\.)*\""""
_WORD = re.compile(rf"(?:[^\s'\"\\$`;|&<>()\0]|{_QUOTED})+(?=\s|$)")


def task_arguments(manifest: Path) -> list[str]:
    """Return what this task's line of a manifest holds; empty lines and comments do not count.

    Raises:
        UserError: there is no such line, or a shell would not take it as these words: a line is run as it stands, or
            not at all.
    """
    try:
        text = manifest.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the manifest {manifest.absolute()}: {error}") from error
    numbered = enumerate(map(str.strip, text.split("\n")), 1)
    lines = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    if not task.isdigit() or not 1 <= int(task) <= len(lines):
        raise UserError(
            f"task {task or 'number unknown'} is out of range: {manifest} has {len(lines)} lines; use "
            f"--array=1-{len(lines)}"
        )
    number, line = lines[int(task) - 1]
    return _words(line, f"line {number} of {manifest}")


def _words(line: str, where: str) -> list[str]:
    """Return a line's words as a shell would, which must need nothing but quotes and backslashes for it."""
    words, rest = list[str](), line
    while rest and not rest.startswith("#"):
        word = _WORD.match(rest)
        if word is None:
            raise UserError(
                f"{where} cannot be run as it stands, from here on: {rest}\nA quote may not be closed (an apostrophe "
                "needs double quotes around it, or a backslash before it), or a shell would do something else with "
                "one of $ ` ; | & < > ( ): put it into single quotes, or write out what it stands for."
            )
        words.append(re.sub(_QUOTED, _unquoted, word[0]))
        rest = rest[word.end() :].lstrip()
    return words


def _unquoted(part: re.Match[str]) -> str:
    text = part[0]
    if text[0] == '"':
        return re.sub(r'\\([\\"$`])', r"\1", text[1:-1])
    return text[1:-1] if text[0] == "'" else text[1:]
