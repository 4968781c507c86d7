"""Pooling over any number of spatial axes."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from cnn.layers.conv import Padding, Sizes, explicit_padding, per_axis


def _reduce_window(x, start, function, window, strides, padding):
    rank = x.ndim - 2
    window = per_axis(window, rank, "window")
    strides = window if strides is None else per_axis(strides, rank, "strides")
    pads = explicit_padding(padding, window, (1,) * rank)
    if isinstance(pads, str):
        pads = lax.padtype_to_pads((x.shape[1:-1]), window, strides, pads)
    pads = ((0, 0), *pads, (0, 0))
    return lax.reduce_window(x, start, function, (1, *window, 1), (1, *strides, 1), pads)


def max_pool(
    x: Float[Array, "b *space c"],
    window: Sizes,
    strides: Sizes | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "b *out c"]:
    """Largest value of each window; padding never wins. Strides default to the window.

    Its gradient is slow on XLA:CPU (select-and-scatter); small CPU models stride a convolution instead.
    """
    # A NumPy scalar keeps the -inf concrete, by which JAX knows that this reduction has a gradient.
    return _reduce_window(x, np.array(-np.inf, x.dtype), lax.max, window, strides, padding)


def avg_pool(
    x: Float[Array, "b *space c"],
    window: Sizes,
    strides: Sizes | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "b *out c"]:
    """Mean of each window over the pixels that exist: padding counts in neither sum nor number."""
    zero = np.array(0, x.dtype)
    total = _reduce_window(x, zero, lax.add, window, strides, padding)
    number = _reduce_window(
        jnp.ones((1, *x.shape[1:-1], 1), x.dtype), zero, lax.add, window, strides, padding
    )
    return total / number


def global_avg_pool(x: Float[Array, "b *space c"]) -> Float[Array, "b c"]:
    """Mean over all spatial axes, in float32 whatever the compute type."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)


def blur_pool(x: Float[Array, "b *space c"], strides: Sizes = 2, taps: int = 3) -> Float[Array, "b *out c"]:
    """Takes every `strides`-th pixel of the blurred input: the low pass that sampling needs.

    Zhang 2019 (arXiv 1904.11486): a layer at stride 1 with this behind it, in place of a strided layer, keeps
    features from changing at random with the position of what they see. The blur is binomial, [1 2 1] / 4 for three
    taps, on every axis that strides; the border is reflected.

    Args:
      taps: of the blur, odd. Its zero lies at the highest frequency; more taps pass less below it.
    """
    kernel = np.poly1d([1, 1]) ** (taps - 1) / 2 ** (taps - 1)
    for axis, stride in enumerate(per_axis(strides, x.ndim - 2, "strides"), start=1):
        if stride == 1:
            continue
        size, side = x.shape[axis], taps // 2
        pads = [(side, side) if a == axis else (0, 0) for a in range(x.ndim)]
        wide = jnp.pad(x, pads, mode="reflect")
        x = sum(
            float(weight) * lax.slice_in_dim(wide, tap, tap + size, stride, axis)
            for tap, weight in enumerate(kernel.coefficients)
        )
    return x
