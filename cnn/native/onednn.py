"""oneDNN's convolutions for XLA:CPU: loading, the switch, and the calls. `cnn.native.build` compiles them.

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

_wanted = os.environ.get("CNN_NATIVE", "1") != "0"


@functools.cache
def load(path: str | Path) -> str:
    """Loads a library and makes it known to XLA; returns the name of its call.

    The name holds the build's digest: a program in the compile cache never meets another build's code.

    Raises:
      OSError: it cannot be loaded here.
    """
    import jax

    library = ctypes.CDLL(str(path))
    name = f"cnn_conv_{build.digest()}"
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(library.CnnConv), platform="cpu")
    return name


@functools.cache
def _found() -> tuple[str | None, str]:
    """The name of the call, and why there is none."""
    try:
        return load(build.built()), ""
    except build.NotBuilt as reason:
        return None, str(reason)
    except (OSError, AttributeError) as error:  # a library of another system, or half of one
        return None, f"it cannot be loaded: {error}"


def reason() -> str:
    """Why the stock convolutions serve; '' when the native ones do."""
    if not _wanted:
        return "it is turned off (CNN_NATIVE=0)"
    return _found()[1]


def enabled() -> bool:
    """Whether float32 convolutions that are lowered for a CPU now become native calls."""
    return _wanted and _found()[0] is not None


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Stock convolutions for what is compiled within. Forgets all compiled functions at both ends.

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


def threads() -> int:
    """Threads per call: this process's cores shared out among the CPU devices, which run side by side."""
    import jax

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
    import jax
    import numpy as np

    name, why = _found()
    if name is None:
        raise RuntimeError(f"there are no native convolutions: {why}")

    def numbers(values: Sequence[int]) -> np.ndarray:
        return np.array(tuple(values), np.int64)

    return jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(tuple(shape), np.float32))(
        first,
        second,
        kind=np.int64(kind),
        strides=numbers(strides),
        dilation=numbers(dilation),
        low=numbers([low for low, _ in padding]),
        high=numbers([high for _, high in padding]),
        groups=np.int64(groups),
        threads=np.int64(threads()),
    )
