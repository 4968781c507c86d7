"""How convolutions run: three bilinear primitives, each with `lax` as its lowering and oneDNN on the CPU.

A convolution is bilinear in its input and its kernel, and so are the two gradients. Each of the three maps is
the derivative of the other two, so together they are closed under differentiation of any order and mode:

    forward(x, kernel) -> y      input_gradient(y, kernel) -> x      kernel_gradient(x, y) -> kernel

The choice between backends is made when a program is lowered, so one trace serves CPU, GPU, TPU and export.
On the CPU a float32 convolution becomes a native call where `cnn.native` has a library. Otherwise, and in what
is exported to run elsewhere, it is `lax`, but for the forms in `cnn.layers.taps` that XLA:CPU runs much faster.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src import dispatch  # no public name for prim_requires_devices_during_lowering
from jax.experimental.custom_partitioning import SdyShardingRule, custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from cnn.layers import taps
from cnn.native import onednn

Pairs = tuple[tuple[int, int], ...]
Sizes = tuple[Any, ...]  # int, or symbolic while exporting


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
    return forward_p.bind(*_same_variance(x, kernel), spec=spec)


def input_gradient(
    y: Float[Array, "b *out o"],
    kernel: Float[Array, "*window i_group o"],
    spec: Spec,
    space: tuple[int, ...],
) -> Float[Array, "b *space i"]:
    """The transpose of `forward` in its input, whose spatial sizes are `space`."""
    return input_gradient_p.bind(*_same_variance(y, kernel), spec=spec, space=space)


def kernel_gradient(
    x: Float[Array, "b *space i"], y: Float[Array, "b *out o"], spec: Spec, window: tuple[int, ...]
) -> Float[Array, "*window i_group o"]:
    """The transpose of `forward` in its kernel, whose spatial sizes are `window`."""
    return kernel_gradient_p.bind(*_same_variance(x, y), spec=spec, window=window)


def _same_variance(*operands: Any) -> list[Any]:
    """Within `jax.shard_map`, marks an operand that is the same on all devices as varying like the others."""
    axes = [jax.typeof(operand).manual_axis_type.varying for operand in operands]
    union = frozenset().union(*axes)
    return [
        lax.pcast(operand, tuple(sorted(union - mine)), to="varying") if union - mine else operand
        for operand, mine in zip(operands, axes, strict=True)
    ]


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


def _abstract(shape_of: Callable[..., Sizes]) -> Callable[..., Any]:
    def abstract(first: Any, second: Any, **params: Any) -> Any:
        if first.dtype != second.dtype:
            raise TypeError(f"a convolution of {first.dtype} with {second.dtype}")
        # All three results have the rank of the operands: `update` keeps what JAX says of a value's devices.
        return first.update(shape=shape_of(first, second, **params), weak_type=False)

    return abstract


def _forward_shape(x: Any, kernel: Any, *, spec: Spec) -> Sizes:
    sizes = [
        (size + low + high - gap * (taps - 1) - 1) // step + 1
        for size, taps, step, (low, high), gap in zip(
            x.shape[1:-1], kernel.shape[:-2], spec.strides, spec.padding, spec.dilation, strict=True
        )
    ]
    return (x.shape[0], *(max(size, 0) if isinstance(size, int) else size for size in sizes), kernel.shape[-1])


def _input_shape(y: Any, kernel: Any, *, spec: Spec, space: tuple[int, ...]) -> Sizes:
    return (y.shape[0], *space, kernel.shape[-2] * spec.groups)


def _kernel_shape(x: Any, y: Any, *, spec: Spec, window: tuple[int, ...]) -> Sizes:
    return (*window, x.shape[-1] // spec.groups, y.shape[-1])


# Sharding on the CPU: a native call is a closed box to XLA. Split batches stay split, all else is gathered.


def _batch_axes(info: Any, batch: int) -> Any:
    """The mesh axes that split the leading axis of an operand, None for none or an uneven split."""
    sharding = info.sharding
    axes = sharding.spec[0] if isinstance(sharding, NamedSharding) and sharding.spec else None
    if axes is None:
        return None
    names = axes if isinstance(axes, tuple) else (axes,)
    return axes if batch % math.prod(sharding.mesh.shape[name] for name in names) == 0 else None


def _partition(kind: int, params: Any, mesh: Any, operands: Any, result: Any) -> tuple:
    activations = operands[:2] if kind == onednn.KERNEL_GRADIENT else operands[:1]
    axes = next(filter(None, (_batch_axes(info, info.shape[0]) for info in activations)), None)
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


def _lower_for_cpu(kind: int, stock: Callable[..., Array], ctx: Any, first: Any, second: Any, **params: Any) -> Any:
    shapes = [*(aval.shape for aval in ctx.avals_in), ctx.avals_out[0].shape]
    spec, here = params["spec"], not ctx.module_context.lowering_parameters.for_export
    plain = (
        all(isinstance(size, int) and size > 0 for shape in shapes for size in shape)
        and 1 <= len(spec.strides) <= 3
        and all(side >= 0 for pair in spec.padding for side in pair)
    )
    function = partial(stock, **params)
    if plain and here and ctx.avals_in[0].dtype == np.float32 and onednn.enabled():
        static = (spec, *(params[name] for name in (_EXTRA[kind],) if name))
        function = partial(_partitioned, kind, static)
    elif plain:
        function = taps.faster(kind, *ctx.avals_in, ctx.avals_out[0], spec) or function
    return mlir.lower_fun(function, multiple_results=False)(ctx, first, second)


def _primitive(kind: int, name: str, stock: Callable[..., Array]) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(partial(dispatch.apply_primitive, primitive))
    primitive.def_abstract_eval(_abstract(_SHAPES[kind]))
    mlir.register_lowering(primitive, mlir.lower_fun(stock, multiple_results=False))
    mlir.register_lowering(primitive, partial(_lower_for_cpu, kind, stock), platform="cpu")
    dispatch.prim_requires_devices_during_lowering.add(primitive)
    batching.primitive_batchers[primitive] = partial(_batch, kind, primitive)
    return primitive


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
