"""Where jobs that were queued by earlier versions find what they run."""

from __future__ import annotations

from reslightning.commands.submission import Fit, Request

__all__ = ["Fit", "Request"]
