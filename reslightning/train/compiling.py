"""torch.compile, for images of one size or of several."""

from __future__ import annotations

from torch import nn

EVALUATIONS = 8  # graphs of evaluations, whole and last batches with and without averaged weights, and some to spare


def compile_for(network: nn.Module, sizes: int) -> None:
    """Compile a network in place, for each of so many sizes of training images when its turn comes.

    By itself torch.compile would make one graph of all sizes behind the first, whose kernels know none of them; and
    behind eight graphs it would go on without compiling, and hardly say so.
    """
    if sizes > 1:
        from torch._dynamo import config

        config.recompile_limit = max(config.recompile_limit, sizes + EVALUATIONS)
    network.compile(dynamic=False if sizes > 1 else None)
