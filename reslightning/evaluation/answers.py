"""What a network said of every image, as a file: names, labels and probabilities, of which ensembles are made."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslightning.errors import UserError
from reslightning.files import check_file, written

SUFFIX = ".npz"
FORMAT = 1
ARRAYS = {"names": "U", "labels": "i", "probabilities": "f", "classes": "U", "facts": "U"}  # and their kinds
FACTS = ("split", "part", "dataset", "fingerprint", "files")  # that every file has


@dataclass(frozen=True)
class Answers:
    """A network's, or an ensemble's, answers to N images.

    Attributes:
        names: what the images are called [N], see ``DataModule.image_name``.
        labels: positions among the classes [N], int64.
        probabilities: [N, C], float64 in [0, 1]; each image's sum is 1.
        classes: the names of the C classes.
        facts: of which network, data and protocol they are.
    """

    names: NDArray[np.str_]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    classes: list[str]
    facts: Mapping[str, Any]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each image's most probable class is its own [N]."""
        return self.probabilities.argmax(1) == self.labels

    def metrics(self) -> dict[str, float]:
        """Return loss, top1, top5, balanced, calibration and n_samples, see ``EvalMetrics.compute``."""
        import torch  # the help, and a file that is none, need it not

        from reslightning.train.metrics import EvalMetrics

        counted = EvalMetrics(len(self.classes))
        least = np.finfo(np.float64).tiny  # of what is impossible the logarithm is infinite
        logits = torch.from_numpy(np.log(np.maximum(self.probabilities, least)))
        labels = torch.from_numpy(self.labels)
        counted.update(logits, labels, -logits.gather(1, labels[:, None])[:, 0])
        return counted.compute()[0]

    def write(self, path: Path) -> None:
        """Write them to an .npz file, whole or not at all; numpy.load reads it without pickle.

        Raises:
            UserError: the file cannot be written.
        """
        with self.writing(path):
            pass

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Write them as ``write`` does, once the block ends, which may write what belongs to it."""
        arrays = {
            "names": self.names,
            "labels": self.labels,
            "probabilities": self.probabilities,
            "classes": np.array(self.classes),
            "facts": np.array(json.dumps({"format": FORMAT, **self.facts})),
        }
        with written(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            yield

    @classmethod
    def read(cls, path: Path) -> Answers:
        """Read what ``write`` wrote.

        Raises:
            UserError: the file cannot be read, or is not such a one.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ARRAYS}
            facts = json.loads(str(arrays["facts"]))
            wrong = _wrong(arrays, facts)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            raise UserError(
                f"{path} holds no answers of a network: {wrong}\nMake it with reslightning test --run_dir RUN --save"
            )
        names, labels = arrays["names"], arrays["labels"].astype(np.int64)
        return cls(names, labels, arrays["probabilities"].astype(np.float64), arrays["classes"].tolist(), facts)


def _wrong(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> str:
    """Return in what a file's content is not what an evaluation saves; empty where it is."""
    if facts["format"] != FORMAT:
        return f"its format is {facts['format']}, and this version knows {FORMAT}"
    if lacking := [name for name in FACTS if name not in facts]:
        return f"it does not say its {lacking[0]}"
    names, labels, probabilities, classes, _ = arrays.values()
    if kinds := [name for name, kind in ARRAYS.items() if arrays[name].dtype.kind != kind]:
        return f"{kinds[0]} is of type {arrays[kinds[0]].dtype}"
    if not (names.shape == labels.shape == probabilities.shape[:1] and probabilities.shape[1:] == classes.shape):
        return "its arrays are of different lengths"
    if not len(names) or labels.min() < 0 or labels.max() >= len(classes):
        return "its labels are none of its classes"
    if len(np.unique(names)) < len(names):
        return "two of its images have one name"
    if not (probabilities.min() >= 0 and np.abs(probabilities.sum(1) - 1).max() < 1e-3):  # also of what is no number
        return "its probabilities are none"
    return ""


def check_place(path: Path) -> None:
    """Raise UserError where no such file could be written."""
    if path.suffix != SUFFIX:
        raise UserError(f"--save {path} has no name of such a file; allowed: FILE{SUFFIX}")
    check_file(path, "--save")
