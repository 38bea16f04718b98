"""How a source's index is made: which images of which classes, and where their bytes are."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from reslightning.data.labels import validation_classes
from reslightning.data.layouts import SUFFIXES, Member, SourceLayout, members
from reslightning.data.registry import SPLITS
from reslightning.errors import UserError
from reslightning.files import write_atomically

FORMAT = "1"
SHOWN = 5  # names in a message


def write_index(path: Path, layout: SourceLayout, stamped: str) -> None:
    """Write the index of a source to ``path``, whole or not at all.

    Train is ordered by class and name, val and test by name first: the same images are in the
    same order in every kind of source.

    Raises:
        UserError: a class or an image is not as it must be.
        OSError: the file cannot be written.
    """
    parts: dict[str, list[tuple[str, str, Member]]] = {split: [] for split in SPLITS}
    folders: dict[str, set[str]] = {split: set() for split in SPLITS}
    flat = False
    for member in members(layout):
        split, _, rest = member.path.partition("/")
        label, _, name = rest.partition("/")
        if member.size < 0:
            if not name:
                folders[split].add(label)
        elif member.path.endswith(".tar"):
            continue
        elif name:
            parts[split].append((sys.intern(label), name, member))
        else:
            parts[split].append(("", label, member))
            flat = flat or split == "val"
    if flat:
        parts["val"] = _labelled(parts["val"], layout)
    if any(not label for label, _, _ in parts["test"]):
        parts["test"] = []  # ImageNet's test images have no public labels
    classes = _check(parts, folders, layout)
    numbers = {label: number for number, label in enumerate(classes)}
    columns: dict[str, np.ndarray] = {}
    for split, images in parts.items():
        images.sort(key=(lambda i: (i[0], i[1])) if split == "train" else (lambda i: (i[1], i[0])))
        _check_once(split, images, layout)
        columns |= _columns(split, images, numbers)
    metadata = {
        "format": FORMAT,
        "stamp": stamped,
        "classes": json.dumps(classes),
        "files": json.dumps([file.name for file in layout.files]),
    }
    write_atomically(path, save(columns, metadata))


def _columns(split: str, images: list[tuple[str, str, Member]], numbers: dict[str, int]) -> dict[str, np.ndarray]:
    names = [os.fsencode(member.path) for _, _, member in images]
    return {
        f"{split}.label": np.array([numbers[label] for label, _, _ in images], np.int32),
        f"{split}.file": np.array([member.file for _, _, member in images], np.int32),
        f"{split}.offset": np.array([member.offset for _, _, member in images], np.int64),
        f"{split}.size": np.array([member.size for _, _, member in images], np.int64),
        f"{split}.end": np.cumsum([len(name) for name in names], dtype=np.int64),
        f"{split}.letters": np.frombuffer(b"".join(names), np.uint8),
    }


def _labelled(images: list[tuple[str, str, Member]], layout: SourceLayout) -> list[tuple[str, str, Member]]:
    """Give the images of a flat val/ their classes."""
    if layout.labels is None:
        raise UserError(
            f"the validation images of {layout.root} are in no class folders, and no file says their classes\nPut one "
            "of these beside: ILSVRC2012_devkit_t12.tar.gz, LOC_val_solution.csv, or val.txt with a line NAME CLASS "
            "for each"
        )
    found = validation_classes(layout.labels, sorted(name for label, name, _ in images if not label))
    lacking = [name for label, name, _ in images if not label and name not in found]
    if lacking:
        raise UserError(f"{layout.labels} gives no class for {_some(lacking)}")
    return [(label or found[name], name, member) for label, name, member in images]


def _check(
    parts: dict[str, list[tuple[str, str, Member]]], folders: dict[str, set[str]], layout: SourceLayout
) -> list[str]:
    """Return the classes, sorted, if every part is as it must be."""
    present = {split: {label for label, _, _ in images} for split, images in parts.items()}
    train = present["train"]
    if "" in train:
        bare = [member.path for label, _, member in parts["train"] if not label]
        raise UserError(f"training images must lie in a folder for each class: {_some(bare)} of {layout.root} do not")
    if not any(present.values()):
        raise UserError(f"no images in {layout.root}\nlooked for: train/CLASS/FILE with {', '.join(SUFFIXES)}")
    for split in SPLITS:
        if empty := sorted(folders[split] - present[split]) if split != "test" else []:
            raise UserError(f"{split} of {layout.root} has classes without images: {_some(empty)}\nRemove the folders.")
        if train and (unknown := sorted(present[split] - train)):
            raise UserError(
                f"{split} of {layout.root} has classes that train lacks: {_some(unknown)}\n"
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


def _check_once(split: str, ordered: list[tuple[str, str, Member]], layout: SourceLayout) -> None:
    for (label, name, one), (other_label, other_name, other) in itertools.pairwise(ordered):
        if (label, name) == (other_label, other_name):
            raise UserError(
                f"{split}/{label}/{name} is twice in {layout.root}: in {layout.files[one.file].name} at byte "
                f"{one.offset:,}, in {layout.files[other.file].name} at {other.offset:,}\nKeep one of them."
            )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
