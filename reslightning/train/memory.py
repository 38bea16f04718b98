"""What a training on CPUs asks of the C library's allocator."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the process keep the memory that a step frees for the next one; return whether the C library can.

    A step allocates and frees all its activations. glibc hands blocks of megabytes back to the kernel, which clears
    every page when it is wanted again, and threads wait meanwhile. The process becomes as large as without, and stays
    so (mallopt(3)).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
