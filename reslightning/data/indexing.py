"""How a source's index is made: which images of which classes, and where their bytes are."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from reslightning.data.labels import validation_classes
from reslightning.data.layouts import FOLDER, OTHER, SUFFIXES, Fact, Member, SourceLayout, file_facts, members, stamp
from reslightning.data.registry import SPLITS
from reslightning.data.twins import look
from reslightning.errors import UserError
from reslightning.files import write_atomically

FORMAT = "2"
SHOWN = 5  # names in a message


Image = tuple[str, str, Member]  # class, name and place


@dataclass
class _Found:
    """What a walk over a source met."""

    parts: dict[str, list[Image]]
    folders: dict[str, set[str]]  # the classes' of each split
    times: list[Fact]  # of a tree's folders
    others: list[str]  # files that are no images


def write_index(path: Path, layout: SourceLayout) -> None:
    """Write the index of a source to ``path``, whole or not at all.

    Train is ordered by class and name, val and test by name first: the same images are in the
    same order in every kind of source.

    Raises:
        UserError: a class or an image is not as it must be, or cannot be read.
        OSError: the index cannot be written.
    """
    facts = file_facts(layout)
    found = _walk(layout)
    parts = found.parts
    if any(not label for label, _, _ in parts["val"]):
        parts["val"] = _labelled(parts["val"], layout)
    bare = [member.path for label, _, member in parts["test"] if not label]
    if bare and len(bare) < len(parts["test"]):
        raise UserError(
            f"test of {layout.root} has images in class folders, and others in none: {some(bare)}\nMove them into "
            "their classes, or away."
        )
    parts["test"] = [] if bare else parts["test"]  # ImageNet's test images have no public labels
    classes = _check(found, layout)
    numbers = {label: number for number, label in enumerate(classes)}
    for split, images in parts.items():
        images.sort(key=(lambda i: (i[0], i[1])) if split == "train" else (lambda i: (i[1], i[0])))
        _check_once(split, images, layout)
    seen = look(layout, [member for images in parts.values() for _, _, member in images])
    columns: dict[str, np.ndarray] = {}
    for split, images in parts.items():
        columns |= _columns(split, images, numbers)
        columns[f"{split}.twin"], seen.twins = seen.twins[: len(images)], seen.twins[len(images) :]
    notes = {"others": _noted(sorted(found.others)), "animated": _noted(seen.animated), "compared": seen.compared}
    notes["unlabelled"] = _noted(bare)
    metadata = {
        "format": FORMAT,
        "stamp": stamp(layout, [*facts, *found.times]),
        "classes": json.dumps(classes),
        "files": json.dumps([file.name for file in layout.files]),
        "notes": json.dumps(notes),
    }
    write_atomically(path, save(columns, metadata))


def _walk(layout: SourceLayout) -> _Found:
    parts: dict[str, list[Image]] = {split: [] for split in SPLITS}
    found = _Found(parts, {split: set() for split in SPLITS}, [], [])
    for member in members(layout):
        split, _, rest = member.path.partition("/")
        label, _, name = rest.partition("/")
        if member.size == FOLDER:
            if not name:
                found.folders[split].add(label)
            if layout.kind == "tree":
                found.times.append((member.path, 0, member.offset))
        elif member.size == OTHER or member.path.endswith(".tar"):
            found.others.append(member.path)
        elif name:
            parts[split].append((sys.intern(label), name, member))
        else:
            parts[split].append(("", label, member))
    found.times.sort(key=lambda fact: (SPLITS.index(fact[0].partition("/")[0]), fact[0]))
    return found


def _noted(names: list[str]) -> dict[str, Any]:
    return {"count": len(names), "shown": some(names)}


def _columns(split: str, images: list[Image], numbers: dict[str, int]) -> dict[str, np.ndarray]:
    names = [os.fsencode(member.path) for _, _, member in images]
    return {
        f"{split}.label": np.array([numbers[label] for label, _, _ in images], np.int32),
        f"{split}.file": np.array([member.file for _, _, member in images], np.int32),
        f"{split}.offset": np.array([member.offset for _, _, member in images], np.int64),
        f"{split}.size": np.array([member.size for _, _, member in images], np.int64),
        f"{split}.end": np.cumsum([len(name) for name in names], dtype=np.int64),
        f"{split}.letters": np.frombuffer(b"".join(names), np.uint8),
    }


def _labelled(images: list[Image], layout: SourceLayout) -> list[Image]:
    """Give the images of a flat val/ their classes."""
    if layout.labels is None:
        raise UserError(
            f"the validation images of {layout.root} are in no class folders, and no file says their classes\nPut one "
            "of these beside: ILSVRC2012_devkit_t12.tar.gz, LOC_val_solution.csv, or val.txt with a line NAME CLASS "
            "for each"
        )
    try:
        found = validation_classes(layout.labels, sorted(name for label, name, _ in images if not label))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {layout.labels}: {getattr(error, 'strerror', None) or error}") from error
    lacking = [name for label, name, _ in images if not label and name not in found]
    if lacking:
        raise UserError(f"{layout.labels} gives no class for {some(lacking)}")
    return [(label or found[name], name, member) for label, name, member in images]


def _check(found: _Found, layout: SourceLayout) -> list[str]:
    """Return the classes, sorted, if every part is as it must be."""
    parts = found.parts
    present = {split: {label for label, _, _ in images} for split, images in parts.items()}
    train = present["train"]
    if "" in train:
        bare = [member.path for label, _, member in parts["train"] if not label]
        raise UserError(f"training images must lie in a folder for each class: {some(bare)} of {layout.root} do not")
    if not any(present.values()):
        others = f"\nfound, but not read: {some(found.others)}" if found.others else ""
        raise UserError(f"no images in {layout.root}\nlooked for: train/CLASS/FILE with {', '.join(SUFFIXES)}{others}")
    for split in SPLITS:
        if empty := sorted(found.folders[split] - present[split]) if split != "test" else []:
            inside = [name for name in found.others if name.split("/")[:2] == [split, empty[0]]]
            why = f"\nfound, but not read: {some(inside)}" if inside else ""
            raise UserError(
                f"{split} of {layout.root} has classes without images: {some(empty)}{why}\nRemove the folders, or "
                "put images there."
            )
        if train and (unknown := sorted(present[split] - train)):
            raise UserError(
                f"{split} of {layout.root} has classes that train lacks: {some(unknown)}\n"
                "Add training images of them, or take them away."
            )
    classes = sorted(train or present["val"] or present["test"])
    alike = defaultdict(list)
    for label in classes:
        alike[label.strip().casefold()].append(label)
    if twice := [names for names in alike.values() if len(names) > 1]:
        raise UserError(
            f"two folders for what looks like one class in {layout.root}: {twice[0]}\nMerge or rename them."
        )
    return classes


def _check_once(split: str, ordered: list[Image], layout: SourceLayout) -> None:
    for (label, name, one), (other_label, other_name, other) in itertools.pairwise(ordered):
        if (label, name) == (other_label, other_name):
            raise UserError(
                f"{split}/{label}/{name} is twice in {layout.root}: in {layout.files[one.file].name} at byte "
                f"{one.offset:,}, in {layout.files[other.file].name} at {other.offset:,}\nKeep one of them."
            )


def some(names: Iterable[str]) -> str:
    """Return the first of many names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
