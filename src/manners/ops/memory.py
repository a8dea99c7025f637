"""Memory that was freed, back to the operating system."""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """Give back what the allocator of the C library keeps for later; nothing where that cannot be asked for (not glibc).

    It keeps what was freed, in pieces: after an update it does not fit the weights that sampling copies, so that the process would grow by
    them instead.
    """
    if sys.platform == "linux":
        trimmer = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trimmer is not None:
            trimmer(0)
