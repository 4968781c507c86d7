"""Convolutions in plain JAX that XLA:CPU runs faster than its own: dots, and sums over the taps of a window.

XLA:CPU (jaxlib 0.10) has no fast path for channel groups: depthwise convolutions run 10 to 60 times below the
machine's speed, and the kernel gradient of a grouped one a thousand times. `experiments/benchmarks/conv.py`
measures these forms against `lax`, and says when they are no longer needed.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT = 0, 1, 2  # the kinds of cnn.native.onednn
MOST_TAPS = 64  # each tap is code to compile: 7x7 is 49

_wanted = True


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Nothing but `lax` for what is compiled within, to measure against; as `cnn.native.onednn.off`."""
    global _wanted
    before = _wanted
    _wanted = False
    jax.clear_caches()
    try:
        yield
    finally:
        _wanted = before
        jax.clear_caches()


def faster(kind: int, first: Any, second: Any, result: Any, spec: Any) -> Callable[..., Array] | None:
    """The form that beats `lax` on a CPU, of the same operands; None where `lax` is best.

    Args:
      kind: which of the three maps.
      first, second, result: their types; shapes are known and nothing is empty.
      spec: strides, padding, dilation and groups, as in cnn.layers.lowering.
    """
    kernel = result if kind == KERNEL_GRADIENT else second
    window, features = kernel.shape[:-2], kernel.shape[-1]
    if first.dtype != np.float32 or not _wanted:
        return None
    if math.prod(window) == 1 and spec.groups == 1 and not any(map(any, spec.padding)):
        return _pointwise(kind, result.shape, spec)
    if spec.groups == 1 or math.prod(window) > MOST_TAPS:
        return None
    if spec.groups == features and kernel.shape[-2] == 1:
        return _depthwise(kind, result.shape, window, spec)
    if kind == KERNEL_GRADIENT:
        return _grouped_kernel_gradient(result.shape, spec)
    return None


def _pointwise(kind: int, shape: tuple[int, ...], spec: Any) -> Callable[..., Array]:
    """A window of one pixel is a matrix product of the pixels that the strides leave."""
    steps = (1, *spec.strides, 1)

    def seen(x: Array) -> Array:
        return lax.slice(x, (0,) * x.ndim, x.shape, steps)

    def run_forward(x: Array, kernel: Array) -> Array:
        return jnp.tensordot(seen(x), kernel.reshape(kernel.shape[-2:]), 1)

    def run_input_gradient(y: Array, kernel: Array) -> Array:
        x = jnp.tensordot(y, kernel.reshape(kernel.shape[-2:]).T, 1)
        edges = [
            (0, size - (n - 1) * step - 1, step - 1)
            for size, n, step in zip(shape, x.shape, steps, strict=True)
        ]
        return lax.pad(x, np.zeros((), x.dtype), edges)

    def run_kernel_gradient(x: Array, y: Array) -> Array:
        axes = tuple(range(x.ndim - 1))
        return jnp.tensordot(seen(x), y, (axes, axes)).reshape(shape)

    return (run_forward, run_input_gradient, run_kernel_gradient)[kind]


def _padded(x: Array, spec: Any) -> Array:
    edges = [(0, 0, 0), *((low, high, 0) for low, high in spec.padding), (0, 0, 0)]
    return lax.pad(x, np.zeros((), x.dtype), edges)


def _cuts(
    x: Array, sizes: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """(tap, what that tap of the window sees at all `sizes` positions of a padded input)."""
    for tap in itertools.product(*map(range, window)):
        start = [t * gap for t, gap in zip(tap, dilation, strict=True)]
        stop = [s + (n - 1) * step + 1 for s, n, step in zip(start, sizes, strides, strict=True)]
        yield tap, lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))


def _depthwise(
    kind: int, shape: tuple[int, ...], window: tuple[int, ...], spec: Any
) -> Callable[..., Array]:
    """One multiply-add over the whole map per tap; XLA fuses them all into one pass."""
    ones = (1,) * len(window)

    def weighted(x: Array, kernel: Array, sizes: Any, strides: Any) -> Array:
        return sum(
            cut * kernel[tap].reshape((1,) * (x.ndim - 1) + (-1,))
            for tap, cut in _cuts(x, sizes, window, strides, spec.dilation)
        )

    def run_forward(x: Array, kernel: Array) -> Array:
        return weighted(_padded(x, spec), kernel, shape[1:-1], spec.strides)

    def run_input_gradient(y: Array, kernel: Array) -> Array:
        edges = [(0, 0, 0)]
        for size, n, k, step, gap, (low, _) in zip(
            shape[1:-1], y.shape[1:-1], window, spec.strides, spec.dilation, spec.padding, strict=True
        ):
            reach = gap * (k - 1)
            edges.append((reach - low, size + low - (n - 1) * step - 1, step - 1))
        spread = lax.pad(y, np.zeros((), y.dtype), [*edges, (0, 0, 0)])
        return weighted(spread, jnp.flip(kernel, range(len(window))), shape[1:-1], ones)

    def run_kernel_gradient(x: Array, y: Array) -> Array:
        cuts = _cuts(_padded(x, spec), y.shape[1:-1], window, spec.strides, spec.dilation)
        sums = [(cut * y).sum(tuple(range(y.ndim - 1))) for _, cut in cuts]
        return jnp.stack(sums).reshape(shape)

    return (run_forward, run_input_gradient, run_kernel_gradient)[kind]


def _grouped_kernel_gradient(shape: tuple[int, ...], spec: Any) -> Callable[..., Array]:
    """One product per tap, batched over the groups."""
    window, groups = shape[:-2], spec.groups

    def run(x: Array, y: Array) -> Array:
        y_rows = y.reshape(-1, groups, shape[-1] // groups)
        products = []
        for _, cut in _cuts(_padded(x, spec), y.shape[1:-1], window, spec.strides, spec.dilation):
            products.append(jnp.einsum("rgi,rgo->igo", cut.reshape(-1, groups, shape[-2]), y_rows))
        return jnp.stack(products).reshape(shape)

    return run
