"""Pooling over any number of spatial axes."""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.conv import Padding, Sizes, explicit_padding, per_axis
from cnn.layers.max_pooling import Spec, largest
from cnn.layers.primitive import window_positions


def check_pixels(x: Float[Array, "b *space c"]) -> None:
    """Raises UserError if no pixel is left in `x`."""
    if 0 in x.shape[1:-1]:
        raise UserError(f"the input is too small: a feature map of {x.shape[1:-1]} pixels is left of it")


def _windows(
    x: Array, window: Sizes, strides: Sizes | None, padding: Padding, dilation: Sizes, ceil: bool = False
) -> Spec:
    """The numbers for each axis.

    Raises:
      UserError: no window fits into `x`.
    """
    rank = x.ndim - 2
    window, dilation = per_axis(window, rank, "window"), per_axis(dilation, rank, "dilation")
    strides = window if strides is None else per_axis(strides, rank, "strides")
    pads = explicit_padding(padding, window, dilation)
    spans = [step * (size - 1) + 1 for size, step in zip(window, dilation, strict=True)]
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(x.shape[1:-1], spans, strides, pads)
    if ceil:
        sizes = zip(x.shape[1:-1], spans, strides, pads, strict=True)
        pads = [(pad[0], _ceil_padding(*axis, *pad)) for *axis, pad in sizes]
    spec = Spec(window, strides, tuple(map(tuple, pads)), dilation)
    out = window_positions(x.shape[1:-1], *spec)
    if 0 in out:
        raise UserError(f"the input is too small: a feature map of {out} pixels is left of it")
    return spec


def _ceil_padding(size: int, span: int, stride: int, low: int, high: int) -> int:
    """Padding behind one axis with which a last, partly filled window counts too.

    As PyTorch's `ceil_mode`: no window may begin behind the input.
    """
    steps = max(-(-(size + low + high - span) // stride), 0)
    if steps * stride >= size + low:
        steps -= 1
    return max(steps * stride + span - size - low, 0)


def max_pool(
    x: Float[Array, "b *space c"],
    window: Sizes,
    strides: Sizes | None = None,
    padding: Padding = "VALID",
    dilation: Sizes = 1,
    ceil: bool = False,
) -> Float[Array, "b *out c"]:
    """Largest value of each window; padding never wins. Strides default to the window.

    How it runs on which backend is in cnn.layers.max_pooling. Without the native library its gradient is slow on
    XLA:CPU (select-and-scatter); small CPU models stride a convolution instead.

    Args:
      dilation: distance between the window's samples.
      ceil: a last window that the input fills only partly counts too (PyTorch's `ceil_mode`).
    """
    return largest(x, _windows(x, window, strides, padding, dilation, ceil))


def avg_pool(
    x: Float[Array, "b *space c"],
    window: Sizes,
    strides: Sizes | None = None,
    padding: Padding = "VALID",
    dilation: Sizes = 1,
    count_padding: bool = False,
) -> Float[Array, "b *out c"]:
    """Mean of each window. Strides default to the window.

    Args:
      dilation: distance between the window's samples.
      count_padding: padding counts as zeros (PyTorch's `count_include_pad`); if not, the mean is over the pixels
        that exist.
    """
    spec = _windows(x, window, strides, padding, dilation)
    (sizes, steps, gaps), pads = ((1, *v, 1) for v in (spec.window, spec.strides, spec.dilation)), spec.padding

    def total(x: Array) -> Array:
        edges = ((0, 0), *pads, (0, 0))
        return lax.reduce_window(x, np.array(0, x.dtype), lax.add, sizes, steps, edges, window_dilation=gaps)

    return total(x) / (math.prod(sizes) if count_padding else total(jnp.ones((1, *x.shape[1:-1], 1), x.dtype)))


def adaptive_avg_pool(x: Float[Array, "b *space c"], size: Sizes) -> Float[Array, "b *out c"]:
    """Mean over `size` windows per axis that cover the input evenly, whatever its size.

    Window i of an axis of n pixels is [floor(i n / size), ceil((i + 1) n / size)): windows overlap where `size`
    does not divide n, and repeat pixels where it is larger, as PyTorch's AdaptiveAvgPool.

    Raises:
      UserError: no pixel is left in the input.
    """
    check_pixels(x)
    for axis, (n, bins) in enumerate(zip(x.shape[1:-1], per_axis(size, x.ndim - 2, "size"), strict=True), 1):
        if n == bins:
            continue
        first = np.arange(bins) * n // bins
        last = -(-(np.arange(bins) + 1) * n // bins)
        pixel = np.arange(n)[:, None]
        weights = ((first <= pixel) & (pixel < last)) / (last - first)
        x = jnp.moveaxis(
            jnp.tensordot(x, jnp.asarray(weights, x.dtype), (axis, 0), precision=lax.Precision.HIGHEST), -1, axis
        )
    return x


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
