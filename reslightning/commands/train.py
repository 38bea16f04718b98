"""fit, validate, test and predict."""

from __future__ import annotations

from reslightning.cli import CLI


def main(argv: list[str]) -> int:
    """Run one of Lightning's subcommands."""
    CLI(argv)
    return 0
