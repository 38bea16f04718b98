"""What image files hold beyond their names: which are the same, byte for byte, and which have several frames."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar

import numpy as np

from reslightning.data.decode import opened
from reslightning.data.layouts import Member, SourceLayout
from reslightning.errors import UserError

MOST = 100_000  # files that are compared; of more, those of lengths chosen by chance
SHOWN = 3  # pairs in a message
HEAD = 4096  # bytes of a file that are compared first
THREADS = 16  # that read: a network's answers are waited for together
CHUNK = 256  # files that a thread reads in turn
STILL = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".tga")


Place = TypeVar("Place")


@dataclass
class Seen:
    """What was seen of images.

    Attributes:
        twins: [N], int32; images of one number are the same, and -1 is of one alone.
        compared: how many images are known to be alone or not; fewer than all where many lengths are shared.
        animated: the paths of those with several frames.
    """

    twins: np.ndarray
    compared: int
    animated: list[str]


def look(layout: SourceLayout, images: Sequence[Member]) -> Seen:
    """Compare images by length and then by content, and count those with several frames.

    Raises:
        UserError: one of them cannot be read.
    """
    sizes = np.array([image.size for image in images], np.int64)
    alike, compared = candidates(sizes)
    moving = np.array([not image.path.lower().endswith(STILL) for image in images], bool)
    with _Files(layout) as files, ThreadPoolExecutor(THREADS) as pool:

        def head(position: int) -> tuple[bytes, bool]:
            image = images[position]
            content = files.read(image, HEAD)
            return _digest(content), bool(moving[position]) and _animated(files, image, content)

        def whole(position: int) -> bytes:
            image = images[position]
            return _digest(files.read(image, image.size))

        def each(positions: Sequence[int], work):  # type: ignore[no-untyped-def]
            chunks = [positions[first : first + CHUNK] for first in range(0, len(positions), CHUNK)]
            return [result for part in pool.map(lambda chunk: [work(p) for p in chunk], chunks) for result in part]

        looked = np.flatnonzero(alike | moving).tolist()
        heads = dict(zip(looked, each(looked, head), strict=True))
        groups = _groups([p for p in looked if alike[p]], lambda p: (images[p].size, heads[p][0]))
        near = [p for group in groups for p in group]
        digests = dict(zip(near, each(near, whole), strict=True))
        same = [part for group in groups for part in _groups(group, digests.__getitem__)]
    twins = np.full(len(images), -1, np.int32)
    for number, group in enumerate(same):
        twins[group] = number
    return Seen(twins, compared, [images[p].path for p in looked if heads[p][1]])


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def candidates(sizes: np.ndarray) -> tuple[np.ndarray, int]:
    """Return which images share their length with another, of too many a part, and how many that leaves compared."""
    lengths, which, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    shared = (counts > 1) & (lengths > 0)
    chosen = shared & (counts <= MOST)
    order = np.argsort(lengths * 2_654_435_761 % 2**32)  # no lengths before others
    order = order[chosen[order]]
    chosen[order[np.cumsum(counts[order]) > MOST]] = False
    return chosen[which], int(len(sizes) - counts[shared & ~chosen].sum())


def _groups(positions: Iterable[Place], key: Callable[[Place], Hashable]) -> list[list[Place]]:
    """Return lists of at least two positions with one key."""
    found: dict[Hashable, list[Place]] = defaultdict(list)
    for position in positions:
        found[key(position)].append(position)
    return [group for group in found.values() if len(group) > 1]


def _animated(files: _Files, image: Member, head: bytes) -> bool:
    """Whether an image has several frames; of what cannot be opened, decoding will say so."""
    if head.startswith(b"\x89PNG"):  # a chunk before the pixels says so
        return b"acTL" in head.partition(b"IDAT")[0]
    try:
        with opened(files.read(image, image.size)) as picture:
            return bool(getattr(picture, "is_animated", False))
    except Exception:
        return False


def same_pixels(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the numbers of the same images among parts of them in memory, [N, 3, H, W], uint8."""
    places = [(split, position) for split, images in parts.items() for position in range(len(images))]
    middle = np.concatenate([images[:, :, images.shape[2] // 2].reshape(len(images), -1) for images in parts.values()])
    words = np.pad(middle, ((0, 0), (0, -middle.shape[1] % 8))).view(np.uint64)
    sums = words @ np.random.default_rng(0).integers(1, 2**62, words.shape[1], np.uint64)
    twins = {split: np.full(len(images), -1, np.int32) for split, images in parts.items()}
    _, which, counts = np.unique(sums, return_inverse=True, return_counts=True)
    near = [places[position] for position in np.flatnonzero(counts[which] > 1).tolist()]
    for number, group in enumerate(_groups(near, lambda place: parts[place[0]][place[1]].tobytes())):
        for split, position in group:
            twins[split][position] = number
    return twins


def shared(twins: Mapping[str, np.ndarray], name: Callable[[str, int], str]) -> list[str]:
    """Return a line for each two parts that have images in common.

    Args:
        twins: the numbers of each part's images.
        name: gives the path of a part's image.
    """
    lines = []
    for one, other in itertools.combinations(twins, 2):
        both = np.intersect1d(twins[one][twins[one] >= 0], twins[other])
        if not len(both):
            continue
        found = np.flatnonzero(np.isin(twins[other], both))
        pairs = [
            f"{name(other, position)} is {name(one, int(np.flatnonzero(twins[one] == twins[other][position])[0]))}"
            for position in found[:SHOWN].tolist()
        ]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        lines.append(
            f"warning: {len(found):,} of {len(twins[other]):,} {other} images stand in {one}, too, byte for byte: "
            f"{', '.join(pairs)}{more}; keep each in one part"
        )
    return lines


class _Files:
    """Reads the beginnings of a source's images; its tars are opened once."""

    def __init__(self, layout: SourceLayout) -> None:
        self.layout, self.root = layout, str(layout.root)
        self.handles: list[int] = []

    def __enter__(self) -> _Files:
        if self.layout.kind != "tree":
            self.handles = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in self.layout.files]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            os.close(handle)

    def read(self, image: Member, count: int) -> bytes:
        try:
            if self.handles:
                return os.pread(self.handles[image.file], min(count, image.size), image.offset)
            handle = os.open(f"{self.root}/{image.path}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                return os.pread(handle, count, 0)
            finally:
                os.close(handle)
        except OSError as error:
            raise UserError(
                f"cannot read {self.root}/{image.path}: {error.strerror}\nMake it readable, or remove it."
            ) from error
