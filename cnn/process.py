"""What a process sets up before JAX starts its threads; each verb calls `prepare`."""

import ctypes
from pathlib import Path
from typing import Any

import jax

from cnn.paths import compile_cache_dir

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


_CACHE_EVENTS = {"/jax/compilation_cache/cache_hits": "hits", "/jax/compilation_cache/cache_misses": "misses"}
cache_counts = {"hits": 0, "misses": 0}


def _count(event: str, **_: Any) -> None:
    if event in _CACHE_EVENTS:
        cache_counts[_CACHE_EVENTS[event]] += 1


def use_compile_cache() -> Path:
    """Turns on JAX's persistent compilation cache (see cnn.paths)."""
    folder = compile_cache_dir()
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if not _listening:
        jax.monitoring.register_event_listener(_count)
        _listening.append(True)
    return folder


_listening: list[bool] = []
