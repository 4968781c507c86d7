"""How convolutions run: three bilinear primitives, each with `lax` as its lowering and oneDNN on the CPU.

A convolution is bilinear in its input and its kernel, and so are the two gradients. Each of the three maps is
the derivative of the other two, so together they are closed under differentiation of any order and mode:

    forward(x, kernel) -> y      input_gradient(y, kernel) -> x      kernel_gradient(x, y) -> kernel

On the CPU a float32 convolution becomes a native call where `cnn.native` has a library. Otherwise, and in what
is exported to run elsewhere, it is `lax`, but for the forms in `cnn.layers.taps` that XLA:CPU runs much faster.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import SdyShardingRule, custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from cnn.layers import taps
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
    """The numbers of a convolution, one per spatial axis."""

    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int
    precision: str | None  # of `lax`; oneDNN computes in float32


def forward(
    x: Float[Array, "b *space i"], kernel: Float[Array, "*window i_group o"], spec: Spec
) -> Float[Array, "b *out o"]:
    """Cross-correlation."""
    return forward_p.bind(*same_variance(x, kernel), spec=spec)


def input_gradient(
    y: Float[Array, "b *out o"],
    kernel: Float[Array, "*window i_group o"],
    spec: Spec,
    space: tuple[int, ...],
) -> Float[Array, "b *space i"]:
    """The transpose of `forward` in its input, whose spatial sizes are `space`."""
    return input_gradient_p.bind(*same_variance(y, kernel), spec=spec, space=space)


def kernel_gradient(
    x: Float[Array, "b *space i"], y: Float[Array, "b *out o"], spec: Spec, window: tuple[int, ...]
) -> Float[Array, "*window i_group o"]:
    """The transpose of `forward` in its kernel, whose spatial sizes are `window`."""
    return kernel_gradient_p.bind(*same_variance(x, y), spec=spec, window=window)


# The stock forms. They also say what the shapes are.


def _lax_forward(x: Array, kernel: Array, *, spec: Spec) -> Array:
    space = "".join(chr(ord("a") + axis) for axis in range(len(spec.strides)))
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=spec.strides,
        padding=spec.padding,
        rhs_dilation=spec.dilation,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        feature_group_count=spec.groups,
        precision=spec.precision,
    )


def _lax_input_gradient(y: Array, kernel: Array, *, spec: Spec, space: tuple[int, ...]) -> Array:
    shape = (y.shape[0], *space, kernel.shape[-2] * spec.groups)
    x = jax.typeof(y).update(shape=shape)  # in `shard_map` it varies as y does: no sum over devices here
    return jax.linear_transpose(lambda x: _lax_forward(x, kernel, spec=spec), x)(y)[0]


def _lax_kernel_gradient(x: Array, y: Array, *, spec: Spec, window: tuple[int, ...]) -> Array:
    shape = (*window, x.shape[-1] // spec.groups, y.shape[-1])
    kernel = jax.typeof(x).update(shape=shape)
    return jax.linear_transpose(lambda kernel: _lax_forward(x, kernel, spec=spec), kernel)(y)[0]


def _forward_shape(x: Any, kernel: Any, *, spec: Spec) -> Shape:
    sizes = window_positions(x.shape[1:-1], kernel.shape[:-2], spec.strides, spec.padding, spec.dilation)
    return (x.shape[0], *sizes, kernel.shape[-1])


def _input_shape(y: Any, kernel: Any, *, spec: Spec, space: tuple[int, ...]) -> Shape:
    return (y.shape[0], *space, kernel.shape[-2] * spec.groups)


def _kernel_shape(x: Any, y: Any, *, spec: Spec, window: tuple[int, ...]) -> Shape:
    return (*window, x.shape[-1] // spec.groups, y.shape[-1])


# Sharding on the CPU: a native call is a closed box to XLA. Split batches stay split, all else is gathered.


def _partition(kind: int, params: Any, mesh: Any, operands: Any, result: Any) -> tuple:
    activations = operands[:2] if kind == onednn.KERNEL_GRADIENT else operands[:1]
    axes = split_axes(*activations)
    split = NamedSharding(mesh, PartitionSpec(axes))
    whole = NamedSharding(mesh, PartitionSpec())

    def local(first: Array, second: Array) -> Array:
        value = _native(kind, first, second, params)
        return lax.psum(value, axes) if kind == onednn.KERNEL_GRADIENT and axes else value

    if kind == onednn.KERNEL_GRADIENT:
        return mesh, local, whole, (split, split)
    return mesh, local, split, (split, whole)


def _sharding_rule(kind: int, params: Any, mesh: Any, operands: Any, results: Any) -> SdyShardingRule:
    """Only the batch axis carries a sharding from one array to another."""
    rank = len(operands[0].shape)

    def own(name: str) -> tuple[str, ...]:
        return tuple(f"{name}{axis}" for axis in range(rank - 1))

    activation = [("batch", *own(name)) for name in "xy"]
    kernel = ("k", *own("k"))
    if kind == onednn.KERNEL_GRADIENT:
        return SdyShardingRule((activation[0], activation[1]), (kernel,))
    return SdyShardingRule((activation[0], kernel), (activation[1],))


@partial(custom_partitioning, static_argnums=(0, 1))
def _partitioned(kind: int, params: Any, first: Array, second: Array) -> Array:
    return _native(kind, first, second, params)


_partitioned.def_partition(_partition, sharding_rule=_sharding_rule)


def _native(kind: int, first: Array, second: Array, params: tuple) -> Array:
    spec = params[0]
    shape = _SHAPES[kind](first, second, **_named(kind, params))
    return onednn.call(kind, first, second, shape, spec.strides, spec.padding, spec.dilation, spec.groups)


_SHAPES = (_forward_shape, _input_shape, _kernel_shape)
_EXTRA = (None, "space", "window")


def _named(kind: int, params: tuple) -> dict[str, Any]:
    return {"spec": params[0]} | ({_EXTRA[kind]: params[1]} if _EXTRA[kind] else {})


def _on_cpu(kind: int, stock: Callable[..., Array], ctx: Any, **params: Any) -> Callable[..., Array]:
    spec, function = params["spec"], partial(stock, **params)
    if not plain(ctx, spec.padding):
        return function
    if native_serves(ctx):
        static = (spec, *(params[name] for name in (_EXTRA[kind],) if name))
        return partial(_partitioned, kind, static)
    return taps.faster(kind, *ctx.avals_in, ctx.avals_out[0], spec) or function


def _primitive(kind: int, name: str, stock: Callable[..., Array]) -> Primitive:
    return define(name, _SHAPES[kind], stock, partial(_on_cpu, kind, stock), partial(_batch, kind))


# Derivatives: the transposes of each map are the other two.


def _forward_to_x(cotangent: Any, x: Any, kernel: Any, *, spec: Spec) -> Array:
    return input_gradient(cotangent, kernel, spec, x.aval.shape[1:-1])


def _forward_to_kernel(cotangent: Any, x: Any, kernel: Any, *, spec: Spec) -> Array:
    return kernel_gradient(x, cotangent, spec, kernel.aval.shape[:-2])


def _input_to_y(cotangent: Any, y: Any, kernel: Any, *, spec: Spec, space: Any) -> Array:
    return forward(cotangent, kernel, spec)


def _input_to_kernel(cotangent: Any, y: Any, kernel: Any, *, spec: Spec, space: Any) -> Array:
    return kernel_gradient(cotangent, y, spec, kernel.aval.shape[:-2])


def _kernel_to_x(cotangent: Any, x: Any, y: Any, *, spec: Spec, window: Any) -> Array:
    return input_gradient(y, cotangent, spec, x.aval.shape[1:-1])


def _kernel_to_y(cotangent: Any, x: Any, y: Any, *, spec: Spec, window: Any) -> Array:
    return forward(x, cotangent, spec)


# vmap: examples join the batch where the kernel is shared; otherwise each has groups of its own.


def _batch(kind: int, primitive: Primitive, operands: tuple, axes: tuple, **params: Any) -> tuple[Array, int]:
    spec = params["spec"]
    count = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    if kind != onednn.KERNEL_GRADIENT and axes[1] is None:
        x = jnp.moveaxis(operands[0], axes[0], 0)
        out = primitive.bind(x.reshape(-1, *x.shape[2:]), operands[1], **params)
        return out.reshape(count, -1, *out.shape[1:]), 0

    def joined(x: Array, axis: int | None) -> Array:
        """Moves the mapped axis before the channels and merges both."""
        if axis is None:
            x, axis = jnp.broadcast_to(x[None], (count, *x.shape)), 0
        x = jnp.moveaxis(x, axis, -2)
        return x.reshape(*x.shape[:-2], -1)

    params["spec"] = spec._replace(groups=count * spec.groups)
    out = primitive.bind(*(joined(x, axis) for x, axis in zip(operands, axes, strict=True)), **params)
    return out.reshape(*out.shape[:-1], count, -1), out.ndim - 1


forward_p = _primitive(onednn.FORWARD, "cnn_conv", _lax_forward)
input_gradient_p = _primitive(onednn.INPUT_GRADIENT, "cnn_conv_input_gradient", _lax_input_gradient)
kernel_gradient_p = _primitive(onednn.KERNEL_GRADIENT, "cnn_conv_kernel_gradient", _lax_kernel_gradient)
ad.defbilinear(forward_p, _forward_to_x, _forward_to_kernel)
ad.defbilinear(input_gradient_p, _input_to_y, _input_to_kernel)
ad.defbilinear(kernel_gradient_p, _kernel_to_x, _kernel_to_y)
