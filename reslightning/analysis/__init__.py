"""What happens inside networks: how gradients flow, layers respond, lesions hurt, and what depth does to priors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslightning.analysis.recording import GradientFlow as GradientFlow

__all__ = ["GradientFlow"]


def __getattr__(name: str) -> Any:
    # Importing the package must not import torch: --help answers without it.
    if name == "GradientFlow":
        from reslightning.analysis.recording import GradientFlow

        return GradientFlow
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
