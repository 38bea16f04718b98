"""Activation checkpointing: of a block only what it is given is kept, the rest is computed again (arXiv:1604.06174)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reslightning.models.blocks import Block


def checkpointed(block: Block, x: Tensor) -> Tensor:
    """Return ``block(x)`` [B, C, h, w], of which the backward pass computes again what it needs, to the same bits."""
    again = False

    def run(x: Tensor) -> Tensor:
        return block.forward(x) if again else block(x)  # hooks look at the first pass alone

    @contextlib.contextmanager
    def second() -> Iterator[None]:
        nonlocal again
        again = True
        try:
            with _unchanged(block):
                yield
        finally:
            again = False

    # Nothing is drawn in a block, so that no generator's state need be kept.
    result: Tensor = checkpoint(
        run, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: (contextlib.nullcontext(), second())
    )
    return result


@contextlib.contextmanager
def _unchanged(block: Block) -> Iterator[None]:
    """Let a pass update copies of batch normalisation's running statistics, which have seen the batch already."""
    kept = [(module, *one) for module in block.modules() for one in module.named_buffers(recurse=False)]
    for module, name, value in kept:
        setattr(module, name, value.clone())
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
