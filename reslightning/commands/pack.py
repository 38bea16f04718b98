"""pack: a tree of image files, or the official ImageNet tars, into a few indexed tars, resized if asked."""

from __future__ import annotations

import hashlib
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import simplejpeg
from jsonargparse.typing import PositiveInt, restricted_number_type
from PIL import Image

from reslightning.cli.parser import CommandParser
from reslightning.data import decode
from reslightning.data.registry import SPLITS
from reslightning.data.sources import INDEX, Source, withdrawn
from reslightning.errors import UserError
from reslightning.files import check_folder, whole, write_atomically

SHARD = 2e9  # bytes of the source that make a tar
MOST = 64  # tars of a split
RECORD = "pack.json"  # what the tars were made of, and their checksums
Quality = restricted_number_type("Quality", int, [(">=", 1), ("<=", 100)], docstring="a whole number, 1 to 100")
QUALITY = 90
SUMS = "SHA256SUMS"  # the checksums, for sha256sum --check


@dataclass(frozen=True)
class Resize:
    """How images are made smaller; those that are small enough stay as they are, byte for byte."""

    max_side: int | None
    short_side: int | None
    quality: int

    def __call__(self, content: bytes) -> bytes:
        """Return an image file no larger than asked for.

        Raises:
            CorruptImageError: the bytes are no whole image.
            UnsupportedImageError: the image has other depths than 8 or 16 bits.
        """
        image = Image.fromarray(decode.decode(content))  # also of what stays: no training may be the first to look
        width, height = image.size
        factor = 1.0
        if self.max_side is not None:
            factor = self.max_side / max(height, width)
        elif self.short_side is not None:
            factor = self.short_side / min(height, width)
        if factor >= 1:
            return content
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        small = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
        encoded = simplejpeg.encode_jpeg(small, quality=self.quality, colorsubsampling="420")
        return _oriented(encoded, decode.orientation(content))


def _oriented(encoded: bytes, orientation: int) -> bytes:
    """Return a JPEG that says how its pixels must be turned: packing leaves it to the reader whether they are."""
    if orientation == decode.UPRIGHT:
        return encoded
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    data = exif.tobytes()
    return encoded[:2] + b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data + encoded[2:]


@dataclass(frozen=True)
class Shard:
    """A tar: positions ``start`` to ``stop`` of a split."""

    name: str
    split: str
    start: int
    stop: int


def main(argv: list[str]) -> int:
    """Pack what is not packed yet."""
    args = _parser().parse_args(argv[1:])
    args.source, args.dest = args.source.expanduser(), args.dest.expanduser()
    if not args.source.exists():
        raise UserError(f"no such folder or tar: {args.source.absolute()}")
    if args.source.resolve() == args.dest.resolve():
        raise UserError(f"{args.dest} is the source, which would then hold its images twice\nGive another folder.")
    if args.quality is not None and args.max_side is args.short_side is None:
        raise UserError(f"--quality={args.quality} would not count: what is not scaled stays as it is\nLeave it out.")
    check_folder(args.dest)  # before the source is indexed
    resize = Resize(args.max_side, args.short_side, args.quality or QUALITY)
    with withdrawn():
        source = Source(args.source, args.index_dir)
        print("".join(f"{line}\n" for line in source.notes()), end="")
        shards = _shards(source)
        made_of = {"format": 1, "source": json.loads(source.index.metadata["stamp"]), **asdict(resize)}
        done = _begin(args.dest, made_of)
        missing = [shard for shard in shards if not _whole(args.dest, done.get(shard.name))]
        if not missing:
            print(f"{args.dest}: packed already")
            return 0
        _check_room(args.dest, source, missing, resize)
    try:
        for record in _pack(source, args.dest, missing, resize, args.workers):
            done[record["name"]] = record
            write_atomically(args.dest / RECORD, json.dumps({**made_of, "tars": done}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {args.dest}: {error.strerror}\nThe same command goes on.") from error
    finally:
        for partial in args.dest.glob(".*.tmp"):
            partial.unlink(missing_ok=True)
    write_atomically(args.dest / SUMS, "".join(f"{done[s.name]['sha256']}  {s.name}\n" for s in shards))
    (args.dest / INDEX).unlink(missing_ok=True)
    packed = Source(args.dest)
    size = sum(done[shard.name]["bytes"] for shard in shards)
    count = sum(len(packed.labels(split)) for split in SPLITS)
    print(f"{args.dest}: {count:,} images of {len(packed.classes)} classes in {len(shards)} tars, {size / 1e9:.3f} GB")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="reslightning pack",
        description="Pack image files into a few indexed tars, which --data.root then reads. The same command goes on.",
    )
    add = parser.add_argument
    add("source", type=Path, help="a tree of train/CLASS/FILE and val/, the official ImageNet tars' folder, or a tar")
    add("dest", type=Path, help="the folder for the tars")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--max_side", type=PositiveInt, metavar="N", help="scale the longer side down to N pixels")
    size.add_argument("--short_side", type=PositiveInt, metavar="N", help="scale the shorter side down to N pixels")
    text = f"JPEG quality of what is scaled, 1 to 100 (default: {QUALITY})"
    add("--quality", type=Quality, metavar="Q", help=text)
    cpus = len(os.sched_getaffinity(0))
    add("--workers", type=PositiveInt, default=cpus, metavar="N", help=f"processes (default: the CPUs, here {cpus})")
    add("--index_dir", type=Path, metavar="DIR", help="where the source's index goes if not beside it")
    return parser


def _shards(source: Source) -> list[Shard]:
    """Divide every split into tars of about the same number of images."""
    shards = []
    for split in SPLITS:
        count = len(source.labels(split))
        tars = min(max(math.ceil(source.index.column(split, "size").sum() / SHARD), 1), MOST, max(count, 1))
        edges = [count * number // tars for number in range(tars + 1)]
        names = [f"{split}-{number:05}-of-{tars:05}.tar" for number in range(tars)]
        shards += [Shard(name, split, edges[k], edges[k + 1]) for k, name in enumerate(names) if count]
    return shards


def _begin(dest: Path, made_of: dict[str, Any]) -> dict[str, Any]:
    """Return the tars that are done, if ``dest`` belongs to this source and these options.

    Raises:
        UserError: it belongs to others, or cannot be written.
    """
    try:
        dest.mkdir(parents=True, exist_ok=True)
        if (dest / RECORD).is_file():
            record = json.loads((dest / RECORD).read_text())
            done = record.pop("tars", {})
            if record != made_of:
                differ = [key for key in made_of if record.get(key) != made_of[key]]
                raise UserError(
                    f"{dest} holds tars made of another source or with other options ({', '.join(differ)} differ)\n"
                    "Give another folder, or remove it."
                )
            return done
        if any(dest.glob("*.tar")):
            raise UserError(f"{dest} holds tars that pack did not make\nGive another folder.")
        write_atomically(dest / RECORD, json.dumps({**made_of, "tars": {}}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {dest}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{dest / RECORD} is damaged: {error}\nRemove {dest}, and pack again.") from error
    return {}


def _whole(dest: Path, record: dict[str, Any] | None) -> bool:
    path = dest / record["name"] if record else None
    return bool(path and record and path.is_file() and path.stat().st_size == record["bytes"])


def _check_room(dest: Path, source: Source, shards: list[Shard], resize: Resize) -> None:
    free = shutil.disk_usage(dest).free
    needed = sum(int(source.index.column(s.split, "size")[s.start : s.stop].sum()) for s in shards)
    if resize.max_side is None and resize.short_side is None and needed > free:
        raise UserError(
            f"{dest} has no room: {needed / 1e9:.3f} GB are needed, {free / 1e9:.3f} GB are free\n"
            "Make room, give another folder, or make the images smaller with --max-side."
        )


# -- the work -------------------------------------------------------------------------------------


_counter: Any = None


def _pack(source: Source, dest: Path, shards: list[Shard], resize: Resize, workers: int) -> Iterator[dict[str, Any]]:
    """Yield a record of each tar when it is whole, with a bar that counts images."""
    from tqdm import tqdm

    context = multiprocessing.get_context("fork")
    counter = context.Value("q", 0)
    total = sum(shard.stop - shard.start for shard in shards)
    workers, others = min(workers, len(shards)), set(multiprocessing.active_children())
    with (
        ProcessPoolExecutor(workers, context, _start, (counter,)) as pool,
        tqdm(total=total, unit=" images", disable=None) as bar,
    ):
        try:
            jobs = {pool.submit(_pack_shard, source, dest, shard, resize) for shard in shards}
            while jobs:
                done, jobs = wait(jobs, 0.5, FIRST_COMPLETED)
                bar.update(counter.value - bar.n)
                yield from (job.result() for job in done)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker was killed, for its memory perhaps: use fewer --workers; the same command goes on"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.kill()  # the rest of a tar is not waited for
            raise


def _start(counter: Any) -> None:
    global _counter
    _counter = counter
    decode.use_one_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Hashing(io.RawIOBase):
    """Writes to a file, and keeps its checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)


def _pack_shard(source: Source, dest: Path, shard: Shard, resize: Resize) -> dict[str, Any]:
    """Write one tar under another name, sync and rename it, and return its record."""
    labels = source.labels(shard.split)
    with whole(dest / shard.name) as file:
        hashing = _Hashing(file)
        # The same images make the same bytes: no times, no owners.
        with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            for position in range(shard.start, shard.stop):
                try:
                    content = resize(source.read(shard.split, position))
                except decode.ImageError as error:
                    raise UserError(error.of(source.describe(shard.split, position))) from error
                member = tarfile.TarInfo(_member_name(source, shard.split, position, int(labels[position])))
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                with _counter.get_lock():
                    _counter.value += 1
    return {
        "name": shard.name,
        "images": shard.stop - shard.start,
        "bytes": hashing.size,
        "sha256": hashing.digest.hexdigest(),
    }


def _member_name(source: Source, split: str, position: int, label: int) -> str:
    """Return split/class/file; the images of a flat val/ get their classes' folders."""
    name = source.index.name(split, position).removeprefix(f"{split}/")
    folder = source.classes[label]
    return f"{split}/{name}" if name.startswith(f"{folder}/") else f"{split}/{folder}/{name}"
