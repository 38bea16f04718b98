"""fetch: data sets and weights for machines without internet, downloaded and checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reslightning.cli.parser import CommandParser
from reslightning.data.registry import fetchable, load
from reslightning.errors import UserError, near_misses


def main(argv: list[str]) -> int:
    """Download everything named, after all names were found to exist."""
    parser = CommandParser(
        prog="reslightning fetch",
        description="Download and check data sets and weights, and say how to use them where there is no internet.",
    )
    parser.add_argument("name", nargs="+", help=f"{', '.join(fetchable())}, or torchvision:NETWORK[.WEIGHTS]")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to put them in")
    args = parser.parse_args(argv[1:])
    for task in [_task(name, args.to.expanduser()) for name in args.name]:
        print(task(), flush=True)
    return 0


def _task(name: str, to: Path) -> Callable[[], str]:
    data_sets = fetchable()
    if name.lower() in data_sets:
        data_set: Any = load(data_sets[name.lower()])
        return lambda: f"{data_set.fetch(to)}: use it with --data {data_set.__name__} --data.root {to}"
    if name.startswith("torchvision:"):
        return _weights(name, to)
    raise UserError(
        f"unknown data set or weights {name!r}{near_misses(name, data_sets)}\n"
        f"allowed: {', '.join(data_sets)}, torchvision:NETWORK[.WEIGHTS] (torchvision:resnet50.IMAGENET1K_V2)"
    )


def _weights(name: str, to: Path) -> Callable[[], str]:
    from reslightning.data.download import download
    from reslightning.models.weights import torchvision_weights

    entry = torchvision_weights(name)
    path = to / entry.url.rpartition("/")[2]
    checksum = re.search(r"-([0-9a-f]{8,})\.", path.name)
    assert checksum is not None, f"torchvision's {path.name} carries no checksum"
    arch = type(entry).__name__.removesuffix("_Weights").lower()

    def fetch() -> str:
        download(entry.url, path, f"sha256:{checksum[1]}")
        python = f"build_model({arch!r}, weights={str(path)!r})"
        return f"{path}: use it with --model.arch {arch} --model.weights {path}, or {python}"

    return fetch
