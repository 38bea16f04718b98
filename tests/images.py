"""Small image sources for tests: trees, the official tars' layout, flat validation folders."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n02123045", "n03445777")  # tench, goldfish, tabby, golf ball


def jpeg(number: int, width: int = 60, height: int = 48, **options) -> bytes:
    """Return a smooth coloured JPEG that no other number gives."""
    random = np.random.default_rng(number)
    small = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8))
    file = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def tree(folder: Path, *, classes=WNIDS, train: int = 8, val: int = 3) -> Path:
    """Make train/CLASS/FILE and val/CLASS/FILE, named as in ImageNet."""
    number = 0
    for label, name in enumerate(classes):
        for split, count in (("train", train), ("val", val)):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for k in range(count):
                number += 1
                flat = f"ILSVRC2012_val_{1 + k * len(classes) + label:08}.JPEG"
                file = f"{name}_{k}.JPEG" if split == "train" else flat
                (folder / split / name / file).write_bytes(jpeg(number, 50 + number % 17, 44 + number % 11))
    return folder


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def flat_val(source: Path) -> dict[str, tuple[str, bytes]]:
    """Return class and content of a tree's validation images by name, in the order of the names."""
    files = sorted((source / "val").rglob("*.JPEG"), key=lambda path: path.name)
    return {path.name: (path.parent.name, path.read_bytes()) for path in files}


def official(source: Path, folder: Path) -> Path:
    """Make ILSVRC2012's two tars and its development kit of a tree."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in sorted((source / "train").iterdir()):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for path in sorted(wnid.iterdir()):
                    add(archive, path.name, path.read_bytes())
            add(outer, f"{wnid.name}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for name, (_, content) in flat_val(source).items():
            add(archive, name, content)
    devkit(source, folder / "ILSVRC2012_devkit_t12.tar.gz")
    return folder


def devkit(source: Path, path: Path) -> None:
    """Make the development kit: numbers of classes that are not in the order of the WordNet ids."""
    from scipy.io import savemat

    wnids = sorted({wnid for wnid, _ in flat_val(source).values()})
    numbers = {wnid: len(wnids) - k for k, wnid in enumerate(wnids)}
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(numbers[wnid], wnid, "words", 0) for wnid in sorted(wnids, key=numbers.__getitem__)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=kind)})
    truth = "".join(f"{numbers[wnid]}\n" for wnid, _ in flat_val(source).values())
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())


def tar(source: Path, path: Path, *, prefix: str = "") -> Path:
    """Make a tar of split/class/file of a tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for file in sorted(source.rglob("*.JPEG")):
            add(archive, f"{prefix}{file.relative_to(source)}", file.read_bytes())
    return path


def tar_of_everything(source: Path, path: Path) -> Path:
    """Make a tar as tar itself does: with folders, hidden ones and links."""
    with tarfile.open(path, "w") as archive:
        for split in ("train", "val"):
            archive.add(source / split, split)
    return path


def kaggle(source: Path, folder: Path) -> Path:
    """Make Kaggle's layout: a flat val/, and a CSV with its classes and boxes."""
    data = folder / "ILSVRC" / "Data" / "CLS-LOC"
    data.mkdir(parents=True)
    (data / "train").symlink_to(source / "train")
    flatten(source, data / "val")
    with (folder / "LOC_val_solution.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageId", "PredictionString"])
        rows.writerows(
            (name.removesuffix(".JPEG"), f"{wnid} 1 2 30 40 ") for name, (wnid, _) in flat_val(source).items()
        )
    return folder


def flatten(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (_, content) in flat_val(source).items():
        (folder / name).write_bytes(content)
