"""ImageNet's classes, and the files that give the images of a flat val/ their classes."""

from __future__ import annotations

import csv
import functools
import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from reslightning.errors import UserError

DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
# In the order in which they are looked for: the official ones first.
FILES = (
    f"{DEVKIT}.tar.gz",
    DEVKIT,
    "LOC_val_solution.csv",
    "val.txt",
    "val_annotations.txt",
    "imagenet_2012_validation_synset_labels.txt",
)


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """Return the 1,000 classes of ILSVRC 2012, WordNet id to readable name, in the order of their labels."""
    lines = (Path(__file__).parent / "imagenet_classes.txt").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def label_file(folder: Path) -> Path | None:
    """Return the file or folder that says the validation images' classes; None where there is none."""
    places = [folder / name for name in FILES]
    return next((path for path in places if path.is_file() or (path.name == DEVKIT and path.is_dir())), None)


def validation_classes(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the class of every validation image by its file's name.

    Args:
        path: a file that ``label_file`` found: the development kit, packed or not; Kaggle's CSV; lines
            of NAME CLASS, where the class is a folder's name or a number from 0 in ImageNet's order; or
            a class a line, in the order of the images' names.
        names: the images' file names, sorted.

    Raises:
        UserError: the file is not one of these.
    """
    if path.name.startswith(DEVKIT):
        return _from_devkit(path, names)
    text = path.read_text()
    if path.suffix == ".csv":
        rows = list(csv.reader(io.StringIO(text)))[1:]
        return {f"{row[0]}.JPEG": row[1].split()[0] for row in rows if len(row) > 1 and row[1]}
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if all(len(line) == 1 for line in lines):
        if len(lines) != len(names):
            raise UserError(f"{path} has {len(lines):,} lines for {len(names):,} validation images")
        return dict(zip(names, (line[0] for line in lines), strict=True))
    numbered = list(imagenet_classes())
    found = {}
    for line in lines:
        label = line[1] if len(line) > 1 else ""
        if label.isdigit():
            if int(label) >= len(numbered):
                raise UserError(
                    f"{path}: {' '.join(line)!r} has no class of ImageNet; allowed: 0 to {len(numbered) - 1}"
                )
            label = numbered[int(label)]
        found[PurePosixPath(line[0]).name] = label
    return found


def _from_devkit(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Read the development kit: a class number for each image, and which WordNet ids the numbers are."""
    from scipy.io import loadmat

    try:
        truth, meta = (_kit_file(path, name) for name in (GROUND_TRUTH, "meta.mat"))
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        numbers = [int(word) for word in truth.split()]
        return {name: wnids[numbers[int(re.findall(r"\d+", name)[-1]) - 1]] for name in names}
    except (OSError, tarfile.TarError, KeyError, ValueError, IndexError, EOFError) as error:
        raise UserError(
            f"{path} is no whole development kit of ILSVRC 2012 for these {len(names):,} images: {error!r}\n"
            f"expected data/{GROUND_TRUTH} and data/meta.mat in it"
        ) from error


def _kit_file(path: Path, name: str) -> bytes:
    if path.is_dir():
        return (path / "data" / name).read_bytes()
    with tarfile.open(path) as archive:
        for member in archive:
            if PurePosixPath(member.name).name == name and (file := archive.extractfile(member)):
                return file.read()
    raise KeyError(name)
