"""What an analysis says of a claim, and the file in which it says it; without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reslightning.files import read_json, write_atomically

FINDINGS = "findings.json"


class Finding(NamedTuple):
    """A claim, whether it is supported, not supported or not decided, and the numbers that say so."""

    that: str
    verdict: str
    numbers: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.that} ({self.numbers})"


def write_findings(folder: Path, rule: str, findings: Sequence[Finding]) -> None:
    """Write findings, and by which rule they were decided, into a folder."""
    content = {"format": 1, "rule": rule, "findings": [finding._asdict() for finding in findings]}
    write_atomically(folder / FINDINGS, json.dumps(content, indent=2) + "\n")


def read_findings(folder: Path) -> tuple[str, list[Finding]]:
    """Return the rule and the findings that a folder has; none where it has no file of them."""
    content, is_whole = read_json(folder / FINDINGS)
    if not is_whole:
        return "", []
    return str(content.get("rule", "")), [Finding(**one) for one in content.get("findings", [])]
