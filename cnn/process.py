"""What a process sets up before JAX starts its threads; each verb calls `prepare`."""

import ctypes
from pathlib import Path

from cnn.timing import use_compile_cache

# glibc's numbers for mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def prepare() -> Path:
    """Keeps freed memory, turns on the compilation cache; returns the cache's folder."""
    keep_freed_memory()
    return use_compile_cache()


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed for the next allocation, and returns whether it will; elsewhere nothing changes.

    XLA:CPU takes the memory of its temporary arrays anew for every step. Large blocks would go back to the operating
    system each time and come as fresh pages, a fault for every 4 KiB, which can be half of a step's CPU time
    (tests/test_process.py counts them). One arena, because the others are too small for such blocks.
    """
    options = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    return has_glibc() and all([ctypes.CDLL(None).mallopt(name, value) == 1 for name, value in options])


def has_glibc() -> bool:
    """Whether this process runs on the GNU C library."""
    try:
        return hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    except (OSError, TypeError):
        return False
