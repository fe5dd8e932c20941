"""The C library's heap, set for training."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt, by their numbers in malloc.h."""


def keep_freed_memory() -> None:
    """Have glibc keep up to 256 MiB that this process has freed, blocks of up to 32 MiB among it. It would give them
    back to the system and ask again at each training step, page by page: a tenth of a small network's step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # other C libraries have none
        mallopt(M_TRIM_THRESHOLD, 256 * 2**20)
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
