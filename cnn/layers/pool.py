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
