"""What a command line gives, option by option, and the configs that it stands in; without torch."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from reslightning.cli.configs import GROUPS, arrange, load_config, of_file
from reslightning.errors import UserError
from reslightning.strict_yaml import Loader


class Given(NamedTuple):
    """An option as it was given: dotted, with its value, and the config that it stands in, none for a flag."""

    key: str
    value: Any
    config: Path | None


def given_options(words: Sequence[str]) -> list[Given]:
    """Return what a reading of a command line gives, in its order, up to what is no YAML: the parser says where."""
    found: list[Given] = []
    with contextlib.suppress(yaml.YAMLError):
        found.extend(_given(words))
    return found


def _given(words: Sequence[str]) -> Iterator[Given]:
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == "-c":
            yield from _flat(load_config(Path(str(following))), Path(str(following)))
        elif word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            given = value if equals else following
            if given is None or (not equals and given.startswith("--")):
                continue  # a flag, or the parser asks for its value
            if key.removesuffix(".init_args") in GROUPS and given and given.startswith("{"):
                given = yaml.load(given, Loader)
            yield from _flat({key.rstrip("+"): given}, None)


def _flat(content: dict[str, Any], config: Path | None, prefix: str = "") -> Iterator[Given]:
    for name, value in content.items():
        key = re.sub(r"\.init_args(?=\.)", "", f"{prefix}{name}")
        options = of_file(value) if key in GROUPS and isinstance(value, str) else value
        if isinstance(options, dict):
            yield from _flat(options, config if options is value else Path(value), f"{key}.")
        else:
            yield Given(key, value, config)


@contextlib.contextmanager
def configs_named(argv: list[str]) -> Iterator[None]:
    """Say in which config an option stands that a mistake is about, and that no flag gives.

    Args:
        argv: the command line.

    Raises:
        UserError: the mistake.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}{''.join(_places(str(error), argv))}") from error


def _places(message: str, argv: list[str]) -> Iterator[str]:
    stands = dict[str, Path | None]()
    with contextlib.suppress(UserError):  # a config that cannot be read is the mistake itself
        for reading in reversed(arrange(argv)):
            stands |= {option.key: option.config for option in given_options(reading[1:])}
    for key, config in stands.items():
        about = re.search(rf"(?<![\w.]){re.escape(key)}=", message) or message.startswith(f"{key} ")
        if about and config and str(config) not in message:
            yield f"\n{key} stands in {config}"
