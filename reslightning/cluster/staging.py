"""A copy of a data set on the node's own storage: made once, shared by all processes, removed by the last.

Kernel locks say who uses a copy, so that a killed process leaves nothing that counts as used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from reslightning.files import exclusive, sync

SPARE = 1.05  # the share of the copy's size that must be free

_held: list[tuple[Path, int]] = []  # copies that this process uses, with their locks


def stage(source: Path, to: Path, only: Sequence[Path] | None = None) -> Path:
    """Copy a file or a folder to local storage and return the copy, shared by this user's processes.

    Where it cannot be copied, one line says why and the source itself is returned.

    Args:
        source: the file or folder.
        to: a folder on local storage.
        only: the files that are copied, in the source's folder or below it; none given means all of the source.
    """
    try:
        files = _files(source, only)
        base = to / f"reslightning-{os.getuid()}"
        _prepare(base)
        entry = base / f"{source.name}-{_key(source, files)}"
        lock = _shared(base, entry, source, files)
    except OSError as error:
        print(f"data.stage_to={to}: {error.strerror or error}; the data is read from {source}", file=sys.stderr)
        return source
    _held.append((entry, lock))
    return entry / source.name


def _prepare(base: Path) -> None:
    while True:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A process that ends may just have removed the empty folder.
        with contextlib.suppress(FileNotFoundError):
            return _sweep(base)


def release() -> None:
    """Let go of this process's copies, and remove those that nobody else uses."""
    while _held:
        entry, lock = _held.pop()
        with contextlib.suppress(OSError), exclusive(_gate(entry.parent)):
            os.close(lock)
            _remove_unused(entry)
        with contextlib.suppress(OSError):
            _remove_base(entry.parent)


def _files(source: Path, only: Sequence[Path] | None) -> dict[str, tuple[int, int]]:
    """Return size and time of every file, by its path relative to the source's folder."""
    places = [source] if only is None else only
    found = [path for place in places for path in (place.rglob("*") if place.is_dir() else [place])]
    paths = sorted(path for path in found if path.is_file() and not path.name.startswith("."))
    stats = {str(path.relative_to(source.parent)): path.stat() for path in paths}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def _key(source: Path, files: dict[str, tuple[int, int]]) -> str:
    return hashlib.sha256(f"{source.resolve()}{sorted(files.items())}".encode()).hexdigest()[:12]


def _shared(base: Path, entry: Path, source: Path, files: dict[str, tuple[int, int]]) -> int:
    """Return a shared lock on a whole copy, which this process makes if nobody else does."""
    while True:
        lock = _open_lock(entry)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits for whoever makes the copy
        else:
            try:
                if _exists(lock) and not entry.is_dir():
                    _copy(base, entry, source, files)
            except BaseException:
                with contextlib.suppress(OSError):
                    _beside(entry, "lock").unlink()
                os.close(lock)
                raise
            fcntl.flock(lock, fcntl.LOCK_SH)
        if _exists(lock) and entry.is_dir():
            return lock
        os.close(lock)
        time.sleep(random.uniform(0.01, 0.1))


def _copy(base: Path, entry: Path, source: Path, files: dict[str, tuple[int, int]]) -> None:
    needed, free = sum(size for size, _ in files.values()), shutil.disk_usage(base).free
    if free < SPARE * needed:
        raise OSError(f"the copy needs {_size(SPARE * needed)}, and {_size(free)} are free")
    partial = _beside(entry, "partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for name, (size, _) in files.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.parent / name, target)
            shutil.copystat(source.parent / name, target)  # an index is checked against the time
            if target.stat().st_size != size:
                raise OSError(f"the copy of {name} has {target.stat().st_size:,} of {size:,} bytes")
            sync(target)
        partial.rename(entry)
        sync(base)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


# -- locks --------------------------------------------------------------------------------------


def _beside(entry: Path, suffix: str) -> Path:
    return entry.with_name(f"{entry.name}.{suffix}")


def _gate(base: Path) -> Path:
    return base / "gate"


def _open_lock(entry: Path) -> int:
    return os.open(_beside(entry, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _exists(lock: int) -> bool:
    """Whether a locked file still has its name; its last user may have removed it meanwhile."""
    return os.fstat(lock).st_nlink > 0


def _sweep(base: Path) -> None:
    """Remove what processes that were killed have left."""
    with exclusive(_gate(base)):
        for lock in base.glob("*.lock"):
            _remove_unused(lock.with_suffix(""))


def _remove_unused(entry: Path) -> None:
    lock = _open_lock(entry)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # somebody uses it, and removes it in the end
    else:
        partial = _beside(entry, "partial")
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            entry.rename(partial)  # whoever ends this process now leaves nothing that looks whole
        shutil.rmtree(partial, ignore_errors=True)
        _beside(entry, "lock").unlink(missing_ok=True)
    finally:
        os.close(lock)


def _remove_base(base: Path) -> None:
    with exclusive(_gate(base)):
        if [path.name for path in base.iterdir()] == [_gate(base).name]:
            _gate(base).unlink()
            base.rmdir()
