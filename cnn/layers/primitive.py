"""What the project's own primitives share: `lax` on every platform, and on the CPU perhaps a native call.

The choice is made when a program is lowered, so one trace serves CPU, GPU, TPU and export.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jax import lax, typeof
from jax._src import dispatch  # no public name for prim_requires_devices_during_lowering
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import NamedSharding
from jaxtyping import Array

from cnn.native import onednn

Pairs = tuple[tuple[int, int], ...]
Shape = tuple[Any, ...]  # sizes are integers, or symbols in what is exported for any batch


def define(
    name: str,
    shape_of: Callable[..., Shape],
    stock: Callable[..., Array],
    on_cpu: Callable[..., Callable[..., Array]],
    batch: Callable[..., tuple[Array, int]],
) -> Primitive:
    """A primitive of arrays of one type and rank, and of parameters.

    Args:
      shape_of: (types, **parameters) -> shape of the result.
      stock: (arrays, **parameters) -> result, in `lax`.
      on_cpu: (context of the lowering, **parameters) -> function of the arrays: what runs on a CPU.
      batch: (primitive, arrays, mapped axes, **parameters) -> result, its mapped axis.
    """

    def abstract(first: Any, *others: Any, **params: Any) -> Any:
        if any(other.dtype != first.dtype for other in others):
            raise TypeError(f"{name} of {' and '.join(str(x.dtype) for x in (first, *others))}")
        # The result has the rank of the operands: `update` keeps what JAX says of a value's devices.
        return first.update(shape=shape_of(first, *others, **params), weak_type=False)

    def lower_for_cpu(ctx: Any, *operands: Any, **params: Any) -> Any:
        return mlir.lower_fun(on_cpu(ctx, **params), multiple_results=False)(ctx, *operands)

    primitive = Primitive(name)
    primitive.def_impl(partial(dispatch.apply_primitive, primitive))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(stock, multiple_results=False))
    mlir.register_lowering(primitive, lower_for_cpu, platform="cpu")
    dispatch.prim_requires_devices_during_lowering.add(primitive)
    batching.primitive_batchers[primitive] = partial(batch, primitive)
    return primitive


def native_serves(ctx: Any) -> bool:
    """Whether what is lowered runs here and is of the type that native calls know."""
    here = not ctx.module_context.lowering_parameters.for_export
    return here and ctx.avals_in[0].dtype == np.float32 and onednn.enabled()


def plain(ctx: Any, padding: Pairs) -> bool:
    """Whether all shapes are known and not empty, of one to three spatial axes, and no padding cuts off."""
    shapes = [aval.shape for aval in (*ctx.avals_in, *ctx.avals_out)]
    return (
        all(isinstance(size, int) and size > 0 for shape in shapes for size in shape)
        and 1 <= len(padding) <= 3
        and all(side >= 0 for pair in padding for side in pair)
    )


def same_variance(*operands: Any) -> list[Any]:
    """Within `jax.shard_map`, marks an operand that is the same on all devices as varying like the others."""
    axes = [typeof(operand).manual_axis_type.varying for operand in operands]
    union = frozenset().union(*axes)
    return [
        lax.pcast(operand, tuple(sorted(union - mine)), to="varying") if union - mine else operand
        for operand, mine in zip(operands, axes, strict=True)
    ]


def window_positions(
    space: Shape,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
) -> Shape:
    """At how many positions along each axis a window lies within the padded input."""
    sizes = [
        (size + low + high - gap * (taps - 1) - 1) // step + 1
        for size, taps, step, (low, high), gap in zip(space, window, strides, padding, dilation, strict=True)
    ]
    return tuple(max(size, 0) if isinstance(size, int) else size for size in sizes)


def split_axes(*infos: Any) -> Any:
    """The mesh axes that split the leading axis of one of these operands; None for none or an uneven split."""
    return next(filter(None, map(_split_axes, infos)), None)


def _split_axes(info: Any) -> Any:
    sharding = info.sharding
    axes = sharding.spec[0] if isinstance(sharding, NamedSharding) and sharding.spec else None
    if axes is None:
        return None
    names = axes if isinstance(axes, tuple) else (axes,)
    return axes if info.shape[0] % math.prod(sharding.mesh.shape[name] for name in names) == 0 else None
