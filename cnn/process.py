"""The settings of a process: memory, compilation cache, noise of libraries, and what a config needs of JAX.

Each verb calls `prepare` once, before JAX starts its threads. Importing any module of `cnn` changes none of these, and
neither does building a network.
"""

import ctypes
import dataclasses
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cnn import distributed
from cnn.native import onednn
from cnn.paths import compile_cache_dir

# glibc's numbers for mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


_PRECISION = jax.config.jax_default_matmul_precision  # as the user or JAX has it


def prepare(config: ConfigDict | None = None) -> Path:
    """Keeps freed memory, silences Orbax, turns on the compilation cache; returns the cache's folder.

    Args:
      config: `follow` it too; where it comes from a checkpoint, `follow` it once it is read.
    """
    keep_freed_memory()
    quiet_orbax()
    folder = use_compile_cache()
    if config is not None:
        follow(config)
    return folder


def follow(config: ConfigDict) -> None:
    """Sets what a config asks of the whole process, and says so on standard error where it changes numbers or speed.

    `dtype='float32'`: matrix products in full precision; TPUs and GPUs multiply in fewer bits unless told otherwise.
    `deterministic='invariant'`: one thread per native convolution, because sums depend on their number. Any other
    config gets back what was set before.
    """
    exact, alone = config.dtype == "float32", config.deterministic == "invariant"
    jax.config.update("jax_default_matmul_precision", "highest" if exact else _PRECISION)
    onednn.use_threads(1 if alone else 0)
    if not distributed.is_main():
        return
    if exact and jax.default_backend() != "cpu":  # there float32 is exact anyway
        print("dtype float32: matrix products in full precision (slower than bfloat16)", file=sys.stderr, flush=True)
    if alone:
        print("deterministic invariant: one thread per native convolution (slower)", file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class LateAnswers:
    """`sys.unraisablehook` that drops one kind: after a failed read, TensorStore's threads still answer to an event
    loop that Orbax has closed.

    Attributes:
      otherwise: the hook for everything else.
    """

    otherwise: Callable[[Any], Any]

    def __call__(self, unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            self.otherwise(unraisable)


def quiet_orbax() -> None:
    """Silences what Orbax logs: every save at WARNING, and failures, which raise anyway, with hundreds of lines."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not isinstance(sys.unraisablehook, LateAnswers):
        sys.unraisablehook = LateAnswers(sys.unraisablehook)


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
