"""Downloads: to a temporary name, checked, then renamed; what exists and is right stays."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from reslightning.errors import FULL, UserError
from reslightning.files import folder, whole

CHUNK = 1 << 20


def download(url: str, path: Path, checksum: str) -> None:
    """Fetch ``url`` to ``path`` unless a file with the right checksum is there already.

    Args:
        url: where the file is.
        path: where it goes; missing folders are made.
        checksum: "md5:HEX" or "sha256:HEX", where HEX may be the digest's beginning.

    Raises:
        UserError: the file cannot be fetched or written, or is not the one expected.
    """
    if path.is_file() and _matches(path, checksum):
        return
    algorithm, _, expected = checksum.partition(":")
    try:
        with folder(path.parent), urllib.request.urlopen(url, timeout=60) as response, whole(path) as file:
            digest = hashlib.new(algorithm)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
            if not digest.hexdigest().startswith(expected):
                raise UserError(
                    f"{url} is not the expected file: its {algorithm} is not {expected}; "
                    "try again, or fetch it by another way and check it"
                )
    except (urllib.error.URLError, OSError) as error:
        if not isinstance(error, urllib.error.URLError) and (error.filename or error.errno in FULL):  # the disk's
            raise
        reason = getattr(error, "reason", None) or error.strerror or error
        raise UserError(
            f"cannot download {url} to {path}: {reason}\nOn a machine with internet run `reslightning fetch`, "
            "then copy the folder here."
        ) from error


def _matches(path: Path, checksum: str) -> bool:
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest().startswith(expected)
