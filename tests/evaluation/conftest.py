"""Pictures for protocols."""

from __future__ import annotations

import io

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def pictures(sample) -> list[bytes]:
    """64 of ImageNet's own files, none of them square."""
    found = [content for content in sample if len(set(Image.open(io.BytesIO(content)).size)) == 2]
    return found[::3][:64]
