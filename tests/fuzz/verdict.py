"""What must be true of how a case ended: ``python -m tests.fuzz.verdict SEED FROM TO`` prints of which it is not."""

import contextlib
import csv
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from reslightning.__main__ import COMMANDS
from reslightning.files import printable
from tests.fuzz.cases import SCENE, Case, case, typed
from tests.fuzz.child import SECONDS, Ended, prepare, run

STATUSES = (0, 1, 2, 75, 130)
# What a message may say instead of naming what was given: that something was not.
MISSING = re.compile(
    r"no runs at |needs weights and got none|needs model\.weights|required|as --data\.root|needs a place to write to|"
    "is (no|an) option of|would not count|memory does not suffice|not allowed with argument|not installed"
)


def verdict(case: Case, ended: Ended) -> Iterator[str]:
    """Yield what is wrong with how a case ended."""
    text = ended.out + ended.err
    if ended.status is None:
        yield f"did not end within {SECONDS:.0f} s"
        return
    if ended.status not in STATUSES:
        yield f"ended with status {ended.status}"
    if "Traceback (most recent call last)" in text:
        raised = [line for line in text.splitlines() if re.match(r"\w[\w.]*(Error|Exception|Interrupt)", line)]
        yield f"traceback: {raised[-1] if raised else 'of what does not say'}"
    if ended.status == 2:
        if len(re.findall(r"^reslightning: ", ended.err, re.MULTILINE)) != 1:
            yield "not one message"
        elif not names_what_was_given(case, ended.err):
            yield "the message names nothing that was given: " + ended.err.strip()
        for name in sorted(ended.before.keys() | ended.after.keys()):
            if ended.before.get(name) != ended.after.get(name):
                yield f"left {name}" if name not in ended.before else f"changed {name}"
    if ended.status == 0:
        yield from without_effect(case, ended)


def names_what_was_given(case: Case, message: str) -> bool:
    """Whether a message has a value that was given, or where that is no word its option, or says what is missing."""
    told = {*case.environ, *case.environ.values(), *case.files, *Path(case.damage[1] if case.damage else "").parts}
    known = {*(typed(case.words[0]) if case.words[0] in COMMANDS else ()), *typed("fit", "ImageNet")}
    told |= {case.words[0]} - COMMANDS.keys()
    for name, value in case.given:
        read = meant(value)
        told |= {
            value[:30],
            value.lstrip("0"),
            repr(value),
            printable(value)[:30],
            str(read),
            repr(read),
            str(numbers(read)),
            *Path(value).parts[:1],
        }
        told |= set(map(str, read)) if isinstance(read, list) else set()
        if (
            len(value) < 2
            or "*" in value
            or isinstance(read, bool | list | dict | type(None))
            or not value.isprintable()
            or value in SCENE  # of whose content a message may speak
        ):
            told |= {name.rstrip("+"), name.rpartition(".")[2]}
        told |= {*re.split("[=,<]", value)} if name in ("grid", "filter") else set()
        told |= {name.rstrip("+")} - known  # what is no option
    changed = case.damage is not None and case.damage[0] in ("cut", "value")  # which is then named by its option
    return (
        changed
        or bool(MISSING.search(message))
        or any(re.search(rf"(?<![\w.]){re.escape(word)}(?![\w])", message) for word in told if word)
    )


def without_effect(case: Case, ended: Ended) -> Iterator[str]:
    """Yield the options that were accepted and cannot be seen in what they are for."""
    command, last = case.words[0], dict(case.given)
    if "--help" in case.words or command not in COMMANDS:
        return
    runs = [
        path.parent
        for path in ended.folder.glob("**/config.yaml")
        if str(path.relative_to(ended.folder)) not in ended.before
    ]
    if "config" not in last and ("--print_config" in case.words or (command == "fit" and runs)):
        content = yaml.safe_load(ended.out if "--print_config" in case.words else (runs[0] / "config.yaml").read_text())
        yield from (
            f"{name}={value} is {found!r}" for name, value in last.items() if (found := unlike(content, name, value))
        )
    if command == "fit" and runs:
        yield from trained(runs[0], last)
    if command in ("compare", "predict") and "--print_config" not in case.words:
        files = {name: last.get(name, "null") for name in ("plot", "html", "output", "embeddings")}
        places = {name: place for name, place in files.items() if place not in ("null", "")}
        yield from (
            f"{n}={place} was not written" for n, place in places.items() if not (ended.folder / place).is_file()
        )
    if command == "compare" and last.get("format") == "json":
        json.loads(ended.out)
    if command == "pack" and (made := list(ended.folder.glob("**/pack.json"))):
        record = json.loads(made[0].read_text())
        sizes = {name: last[name] for name in ("max_side", "short_side", "quality") if name in last}
        yield from (f"{n}={size} is {record[n]}" for n, size in sizes.items() if float(size) != record[n])
    if command == "submit" and "nothing to submit" not in ended.out:
        asked = {name: last[name] for name in ("time", "partition", "qos", "account", "mem") if name in last}
        yield from (f"{n}={value} is not in the script" for n, value in asked.items() if value not in ended.out)


# What a configuration has otherwise than as an option's value, or not at all.
NO_OPTION = {"run_dir", "fresh", "output", "embeddings", "seed_everything", "data", "model", "trainer", "wandb"}


def unlike(content: Any, name: str, value: str) -> Any:
    """Return what a configuration has for an option, None if it is what was given."""
    if name in NO_OPTION or name.endswith("+"):
        return None
    place = name.replace("data.", "data.init_args.", 1) if name.startswith("data.") else name
    found = content
    for part in place.split("."):
        found = (found or {}).get(part)
    read = meant(value)
    same = str(found) == value or numbers(found) in (numbers(read), numbers(value)) or value == "nan"
    return None if same or (isinstance(read, dict | str) and not isinstance(found, int | float | bool)) else str(found)


def numbers(value: Any) -> Any:
    """Return a value in which every number, also one that YAML takes for text, is a float."""
    if isinstance(value, list):
        return [numbers(item) for item in value]
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def meant(value: str) -> Any:
    """Return what a word is in YAML, or the word."""
    with contextlib.suppress(yaml.YAMLError, ValueError):
        return value if "*" in value else yaml.safe_load(value)
    return value


def trained(run: Path, last: dict[str, str]) -> Iterator[str]:
    """Yield what optimizer, loader and rows of a training do not have of its options."""
    if not (file := run / "checkpoints" / "last.ckpt").is_file():
        return
    groups = torch.load(file, weights_only=True)["optimizer_states"][0]["param_groups"]
    for name in ("momentum", "weight_decay", "nesterov"):
        value = last.get(f"model.optim.{name}")
        if value is not None and name in groups[0] and not any(float(meant(value)) == group[name] for group in groups):
            yield f"model.optim.{name}={value} is {groups[0][name]} in the optimizer"
    samples = json.loads((run / "summary.json").read_text())["n_samples"]
    if (held := last.get("data.val_split", "null")) not in ("null", "0") and samples["val"] != int(held):
        yield f"data.val_split={held}, and {samples['val']} images were held out"
    with (run / "metrics.csv").open(newline="") as rows:
        if len(list(csv.DictReader(rows))) != 1:
            yield "trainer.max_epochs=1 has other rows"


def check(
    seed: int, numbers: range, scene: Path, folder: Path, **options: Any
) -> Iterator[tuple[int, Case, list[str]]]:
    """Yield number, case and what is wrong with it."""
    for number in numbers:
        drawn, place = case(seed, number), folder / str(number)
        yield number, drawn, list(verdict(drawn, run(drawn, scene, place, **options)))
        shutil.rmtree(place)


def main(seed: int, start: int, stop: int) -> None:
    """Print every case that fails, and how many did."""
    with tempfile.TemporaryDirectory() as folder:
        scene, failed = prepare(Path(folder)), 0
        for number, drawn, wrong in check(seed, range(start, stop), scene, Path(folder)):
            failed += bool(wrong)
            for line in wrong:
                print(f"## seed {seed} case {number}: {line}\n{drawn}\n", flush=True)
        print(f"seed {seed}, cases {start} to {stop - 1}: {failed} failed")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
