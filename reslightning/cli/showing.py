"""Which command lines only show something: they end before anything is made."""

import re
from collections.abc import Iterable

SHOWING = re.compile(r"-h|--(.*\.)?help(=.*)?|--print_config(=.*)?")


def shows(words: Iterable[str]) -> bool:
    """Whether a command line asks for help or for its configuration."""
    return any(map(SHOWING.fullmatch, words))
