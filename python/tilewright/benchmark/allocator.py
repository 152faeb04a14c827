"""Keeps freed memory with the process, so that timings are those of kernels.

glibc returns large freed blocks to the system: always above 32 MiB, below that depending on what was freed before. A
call that allocates its result then has the kernel map and zero every page of it: in one process and not in the next.
PyTorch's tuning guide recommends allocators that keep memory (jemalloc, tcmalloc) for the same reason.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Tells the C library not to return freed memory to the system, and not to map large blocks one by one.

    Of the whole process, from now on. Returns whether it took that: only glibc does. Another allocator (``LD_PRELOAD``)
    is left alone.
    """
    if not sys.platform.startswith("linux") or os.environ.get("LD_PRELOAD"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_M_MMAP_MAX, 0)) and bool(library.mallopt(_M_TRIM_THRESHOLD, _NEVER))


def allocator() -> str:
    """What results say of it."""
    preloaded = os.environ.get("LD_PRELOAD")
    if preloaded:
        return f"preloaded: {preloaded}"
    return "freed memory kept by the process" if kept() else "the C library's default"


def kept() -> bool:
    """Whether `keep_freed_memory` was called, and took effect."""
    return keep_freed_memory.cache_info().currsize > 0 and keep_freed_memory()
