"""Native calls for XLA:CPU: loading, the switch, oneDNN's convolutions and pooling. `cnn.native.build` compiles.

`CNN_NATIVE=0` in the environment, read once, turns them off; `off()` does so for a block. Importing this
module loads nothing and imports no JAX: the library is loaded when the first convolution is lowered for a CPU.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnn.native import build

FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT = 0, 1, 2  # as in onednn.cc
MAX, TAKE, PUT = 0, 1, 2  # as in pool.cc
CALLS = {"conv": "CnnConv", "pool": "CnnPool"}  # name here: symbol in the library

_threads = 0  # 0: as `threads` finds them
_wanted = os.environ.get("CNN_NATIVE", "1") != "0"


@functools.cache
def load(path: str | Path) -> str:
    """Loads a library and makes its calls known to XLA; returns what the names of all of them end in.

    That is the build's digest: a program in the compile cache never meets another build's code.

    Raises:
      OSError: it cannot be loaded here.
    """
    import jax

    library = ctypes.CDLL(str(path))
    symbols = {name: jax.ffi.pycapsule(getattr(library, symbol)) for name, symbol in CALLS.items()}
    for name, symbol in symbols.items():
        jax.ffi.register_ffi_target(f"cnn_{name}_{build.digest()}", symbol, platform="cpu")
    return build.digest()


@functools.cache
def _found() -> tuple[str | None, str]:
    """What `load` says, and why there is nothing to load."""
    try:
        return load(build.built()), ""
    except build.NotBuilt as reason:
        return None, str(reason)
    except (OSError, AttributeError) as error:  # a library of another system, or half of one
        return None, f"it cannot be loaded: {error}"


def reason() -> str:
    """Why the stock operations serve; '' when the native ones do."""
    if not _wanted:
        return "it is turned off (CNN_NATIVE=0)"
    return _found()[1]


def enabled() -> bool:
    """Whether float32 convolutions and max pools that are lowered for a CPU now become native calls."""
    return _wanted and _found()[0] is not None


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Stock operations for what is compiled within. Forgets all compiled functions at both ends.

    The choice is made when a function is lowered, and JAX does not know it among the reasons to lower again.
    """
    import jax

    global _wanted
    before = _wanted
    _wanted = False
    jax.clear_caches()
    try:
        yield
    finally:
        _wanted = before
        jax.clear_caches()


def use_threads(count: int) -> None:
    """So many threads per call from now on, in this process: sums depend on the number."""
    global _threads
    _threads = count


def threads() -> int:
    """Threads per call: this process's cores shared out among the CPU devices, which run side by side."""
    import jax

    if _threads:
        return _threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // len(jax.local_devices(backend="cpu")))


def call(
    kind: int,
    first: Any,
    second: Any,
    shape: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """One native convolution, to be traced: float32, channels last, one to three spatial axes, nothing empty.

    Args:
      kind: FORWARD (input, kernel), INPUT_GRADIENT (output, kernel) or KERNEL_GRADIENT (input, output).
      shape: of the result.
    """
    low, high = zip(*padding, strict=True)
    return _call(
        "conv", (first, second), shape, kind=kind, strides=strides, dilation=dilation, low=low, high=high, groups=groups
    )


def pool(
    kind: int,
    moved: Any,
    x: Any,
    shape: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Any:
    """One native max pooling, to be traced; as `call`, and windows may lie in the padding.

    Args:
      kind: MAX (input twice), TAKE (what is taken, input) or PUT (what is put, input).
      shape: of the result.
    """
    low = [low for low, _ in padding]
    return _call("pool", (moved, x), shape, kind=kind, window=window, strides=strides, dilation=dilation, low=low)


def _call(name: str, operands: tuple, shape: Sequence[int], **attributes: int | Sequence[int]) -> Any:
    import jax
    import numpy as np

    build_name, why = _found()
    if build_name is None:
        raise RuntimeError(f"there are no native calls: {why}")
    run = jax.ffi.ffi_call(f"cnn_{name}_{build_name}", jax.ShapeDtypeStruct(tuple(shape), np.float32))
    numbers = attributes | {"threads": threads()}
    # One number is an attribute of its own type: a NumPy scalar, not an array of no axes.
    return run(*operands, **{key: np.int64(value) if np.ndim(value) == 0 else np.array(value, np.int64)
                             for key, value in numbers.items()})
