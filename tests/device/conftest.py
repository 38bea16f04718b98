"""A device that is not there, for a test."""

import pytest
import torch

from tests.device.pretended import Event, pretended


@pytest.fixture
def device(monkeypatch):
    """The device, in whose place no real one is asked for anything."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    with pretended() as device:
        monkeypatch.setattr(torch.cuda, "synchronize", device.synchronize)
        yield device
