"""What the data and the starting weights of a run are by their content, wherever they lie; without torch."""

from __future__ import annotations

import hashlib

from reslightning.run.summary import Content, Fingerprint

SHOWN = 5  # class names in a message


def short(fingerprint: Fingerprint) -> str:
    """Return four hexadecimal digits that tell a fingerprint from another."""
    digest, weights = fingerprint["data"]["digest"], fingerprint.get("weights")
    return (hashlib.sha256(f"{digest} {weights}".encode()).hexdigest() if weights else digest)[:4]


def differences(there: Fingerprint, given: Fingerprint) -> list[str]:
    """Return a line for each thing in which two contents differ; none for the same content."""
    lines = []
    if there["data"]["digest"] != given["data"]["digest"]:
        pairs = zip(_words(there["data"]), _words(given["data"]), strict=True)
        lines = [f"  {what}: {one} there, {other} given" for (what, one), (_, other) in pairs if one != other]
        lines = lines or ["  data: other images of the same classes, numbers and first files"]
    if there.get("weights") != given.get("weights"):
        lines.append(f"  weights to start from: {there.get('weights')} there, {given.get('weights')} given (digests)")
    return lines


def _words(content: Content) -> list[tuple[str, str]]:
    names = content["classes"]
    classes = f"{len(names)} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
    counts = ", ".join(f"{count:,} {split}" for split, count in content["counts"].items())
    return [("classes", classes), ("images", counts), ("first files", ", ".join(content["first"].values()) or "none")]
