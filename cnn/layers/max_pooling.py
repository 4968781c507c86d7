"""How max pooling runs: three primitives, each with `lax` as its lowering and a native call on the CPU.

The first of the largest pixels of each window is its winner. Its derivative is linear, with the input fixed, and
so is that map's transpose; they are each other's, so derivatives of any order and mode need no more than these:

    largest(x) -> y      take(t, x) -> what of t lies under the winners      put(y, x) -> y at the winners

In `lax` they are what JAX makes of `reduce_window`: XLA:CPU runs its gradient on one thread, as a reduction of
pairs and a scatter. `x` decides where a derivative flows and gets none itself: the winners are constant almost
everywhere.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import SdyShardingRule, custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from cnn.layers.primitive import (
    Pairs,
    Shape,
    define,
    native_serves,
    plain,
    same_variance,
    split_axes,
    window_positions,
)
from cnn.native import onednn


class Spec(NamedTuple):
    """The numbers of a pooling, one per spatial axis."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]


def largest(x: Float[Array, "b *space c"], spec: Spec) -> Float[Array, "b *out c"]:
    """The largest pixel of each window; padding never wins, a NaN does."""
    return largest_p.bind(x, spec=spec)


def take(t: Float[Array, "b *space c"], x: Float[Array, "b *space c"], spec: Spec) -> Float[Array, "b *out c"]:
    """The derivative of `largest` at `x` along `t`."""
    return take_p.bind(*same_variance(t, x), spec=spec)


def put(y: Float[Array, "b *out c"], x: Float[Array, "b *space c"], spec: Spec) -> Float[Array, "b *space c"]:
    """The transpose of `take` in `t`."""
    return put_p.bind(*same_variance(y, x), spec=spec)


# The stock forms.


def _lax_largest(x: Array, *, spec: Spec) -> Array:
    # A NumPy scalar keeps the -inf concrete, by which JAX knows that this reduction has a gradient.
    least, (window, strides, dilation) = np.array(-np.inf, x.dtype), ((1, *v, 1) for v in (spec[0], spec[1], spec[3]))
    pads = ((0, 0), *spec.padding, (0, 0))
    return lax.reduce_window(x, least, lax.max, window, strides, pads, window_dilation=dilation)


def _lax_take(t: Array, x: Array, *, spec: Spec) -> Array:
    return jax.jvp(partial(_lax_largest, spec=spec), (x,), (t,))[1]


def _lax_put(y: Array, x: Array, *, spec: Spec) -> Array:
    if any(gap > 1 for gap in spec.dilation):
        return _put_by_taps(y, x, spec)
    return jax.vjp(partial(_lax_largest, spec=spec), x)[1](y)[0]


def _put_by_taps(y: Array, x: Array, spec: Spec) -> Array:
    """`put` tap by tap: JAX has no gradient of dilated windows."""
    steps = (1, *spec.strides, 1)
    wide = lax.pad(x, np.array(-np.inf, x.dtype), [(0, 0, 0), *((*pair, 0) for pair in spec.padding), (0, 0, 0)])
    most, free, total = _lax_largest(x, spec=spec), jnp.ones(y.shape, bool), jnp.zeros_like(wide)
    for tap in itertools.product(*map(range, spec.window)):
        start = (0, *(t * gap for t, gap in zip(tap, spec.dilation, strict=True)), 0)
        stop = [s + (n - 1) * step + 1 for s, n, step in zip(start, y.shape, steps, strict=True)]
        won = free & (lax.slice(wide, start, stop, steps) == most)
        free &= ~won
        edges = [(s, n - e, step - 1) for s, e, n, step in zip(start, stop, wide.shape, steps, strict=True)]
        total += lax.pad(jnp.where(won, y, 0), np.zeros((), y.dtype), edges)
    lows = (0, *(low for low, _ in spec.padding), 0)
    return lax.slice(total, lows, [low + n for low, n in zip(lows, x.shape, strict=True)])


def _pooled_shape(moved: Any, *x: Any, spec: Spec) -> Shape:
    return (moved.shape[0], *window_positions(moved.shape[1:-1], *spec), moved.shape[-1])


def _input_shape(y: Any, x: Any, *, spec: Spec) -> Shape:
    return x.shape


# On the CPU: a native call is a closed box to XLA. Split batches stay split, all else is gathered.


def _partition(kind: int, spec: Spec, mesh: Any, operands: Any, result: Any) -> tuple:
    split = NamedSharding(mesh, PartitionSpec(split_axes(*operands)))
    return mesh, partial(_native, kind, spec), split, (split, split)


def _sharding_rule(kind: int, spec: Spec, mesh: Any, operands: Any, results: Any) -> SdyShardingRule:
    """Only the batch axis carries a sharding from one array to another."""
    arrays = [("batch", *(f"{name}{axis}" for axis in range(len(spec.window) + 1))) for name in "txy"]
    return SdyShardingRule((arrays[0], arrays[1]), (arrays[2],))


def _native(kind: int, spec: Spec, moved: Array, x: Array) -> Array:
    shape = (_input_shape if kind == onednn.PUT else _pooled_shape)(moved, x, spec=spec)
    return onednn.pool(kind, moved, x, shape, *spec)


_partitioned = partial(custom_partitioning, static_argnums=(0, 1))(_native)
_partitioned.def_partition(_partition, sharding_rule=_sharding_rule)


def _on_cpu(kind: int, stock: Callable[..., Array], ctx: Any, *, spec: Spec) -> Callable[..., Array]:
    if not (plain(ctx, spec.padding) and native_serves(ctx)):
        return partial(stock, spec=spec)
    return lambda *operands: _partitioned(kind, spec, operands[0], operands[-1])


def _batch(primitive: Primitive, operands: tuple, axes: tuple, *, spec: Spec) -> tuple[Array, int]:
    """vmap: examples join the batch."""
    count = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)

    def joined(x: Array, axis: int | None) -> Array:
        x = jnp.broadcast_to(x[None], (count, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    out = primitive.bind(*map(joined, operands, axes), spec=spec)
    return out.reshape(count, out.shape[0] // count, *out.shape[1:]), 0


def _primitive(kind: int, name: str, shape_of: Callable[..., Any], stock: Callable[..., Array]) -> Primitive:
    return define(name, shape_of, stock, partial(_on_cpu, kind, stock), _batch)


largest_p = _primitive(onednn.MAX, "cnn_max_pool", _pooled_shape, _lax_largest)
take_p = _primitive(onednn.TAKE, "cnn_max_pool_take", _pooled_shape, _lax_take)
put_p = _primitive(onednn.PUT, "cnn_max_pool_put", _input_shape, _lax_put)
ad.deflinear2(take_p, lambda y, _, x, *, spec: (put(y, x, spec), None))
ad.deflinear2(put_p, lambda t, _, x, *, spec: (take(t, x, spec), None))
ad.defjvp(largest_p, lambda t, x, *, spec: take(t, x, spec))
ad.defjvp(take_p, lambda t, _, x, *, spec: take(t, x, spec), None)  # linear in its first operand alone
ad.defjvp(put_p, lambda t, _, x, *, spec: put(t, x, spec), None)
