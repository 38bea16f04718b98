"""A device that is not there, for a test."""

import pytest
import torch

from tests.device.pretended import pretended


@pytest.fixture
def device(monkeypatch):
    """The device, in whose place no real one is asked for anything."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pretended() as device:
        yield device
