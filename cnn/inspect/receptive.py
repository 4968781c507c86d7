"""Theoretical receptive fields, exact, from the program that JAX traced of a network.

Position p of a layer, along one axis, depends on the input positions jump * p + [low, high]. A convolution of
window k, stride s, dilation d and padding q in front reads positions s * p - q + d * (0 .. k - 1) of what is before
it, so jump' = jump * s, low' = low - jump * q, high' = high + jump * (d * (k - 1) - q). The same arithmetic, over every
operation of the program, gives the numbers for any network (Araujo et al. 2019, "Computing Receptive Fields of
Convolutional Neural Networks", derive it for graphs).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Literal

CALLS = (
    "jit",
    "pjit",
    "custom_jvp_call",
    "custom_vjp_call",
    "remat2",
    "checkpoint",
    "closed_call",
    "core_call",
)
# Of one shape in and out, and yet no position stays where it was.
MOVING = ("rev", "sort", "gather", "scatter", "cumsum", "cumprod", "cummax", "cummin", "fft", "scan", "while", "cond",
          "dynamic_update_slice", "triangular_solve")  # fmt: skip


Number = int | float


class Reach(NamedTuple):
    """What a value depends on along one axis of the input.

    Attributes:
      axis: of the value along which the dependence moves; None where every position sees the same.
      jump: input positions from one position to the next.
      start: the input position over which position 0 is centred.
      low, high: first and last input position that position 0 depends on; infinite for "all of it".
    """

    axis: int | None
    jump: Number
    start: Number
    low: Number
    high: Number

    @property
    def size(self) -> Number:
        """Input positions that one position depends on, as if the input had no end; math.inf for all."""
        return self.high - self.low + 1

    def window(self, taps: int, stride: int, dilation: int, padding: int, axis: int) -> "Reach":
        """After a window of `taps` moved over it, onto `axis` of the result."""
        span = dilation * (taps - 1)
        return Reach(
            axis,
            self.jump * stride,
            self.start + self.jump * (span / 2 - padding),
            self.low - self.jump * padding,
            self.high + self.jump * (span - padding),
        )

    def collapsed(self, size: int) -> "Reach":
        """After all `size` positions of its axis were mixed."""
        extent = self.jump * (size - 1)
        return Reach(None, self.jump, self.start + extent / 2, self.low, self.high + extent)


Reaches = tuple[Reach, ...] | None  # one per spatial axis of the input; None: does not depend on it


def reaches(
    jaxpr: Any, start: Sequence[Reaches], record: Callable[[Any, Reaches], None]
) -> list[Reaches]:
    """The reach of every output of a jaxpr, from those of its inputs; `record` is told every variable's on the way."""
    known: dict[Any, Reaches] = dict(zip(jaxpr.invars, start, strict=True))
    for equation in jaxpr.eqns:
        operands = [None if isinstance(v, Literal) else known.get(v) for v in equation.invars]
        for variable, found in zip(equation.outvars, _through(equation, operands), strict=True):
            known[variable] = found
            record(variable, found)
    return [None if isinstance(v, Literal) else known.get(v) for v in jaxpr.outvars]


def inner_jaxpr(equation: Any) -> Any:
    """The program that a call (one of CALLS) runs."""
    inner = next(v for v in equation.params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr"))
    return getattr(inner, "jaxpr", inner)


def input_reaches(rank: int) -> Reaches:
    """Of the input [b, *space, c] itself, with `rank` spatial axes."""
    return tuple(Reach(axis, 1, 0, 0, 0) for axis in range(1, rank + 1))


def _through(equation: Any, operands: list[Reaches]) -> list[Reaches]:
    name, params = equation.primitive.name, equation.params
    if all(operand is None for operand in operands):
        return [None] * len(equation.outvars)
    if name in CALLS:
        return reaches(inner_jaxpr(equation), operands, lambda variable, found: None)
    shapes = [v.aval.shape for v in equation.invars]
    rule = next(
        (
            RULES[key]
            for key in RULES
            if name == key or key.endswith("*") and name.startswith(key[:-1])
        ),
        None,
    )
    if rule is not None:
        moved = rule(params, shapes, operands, equation.outvars[0].aval.shape)
    elif name not in MOVING and all(
        _fits(s, v.aval.shape) for s in shapes for v in equation.outvars
    ):
        moved = [
            _stretched(o, s, equation.outvars[0].aval.shape)
            for o, s in zip(operands, shapes, strict=True)
        ]
    else:
        moved = [_mixed(operand, shape) for operand, shape in zip(operands, shapes, strict=True)]
    return [_union([m for m in moved if m is not None])] * len(equation.outvars)


def _fits(shape: Sequence[int], out: Sequence[int]) -> bool:
    """Whether an operation goes element by element from `shape` to `out`: axes of size 1 stretch."""
    return (
        not shape
        or len(shape) == len(out)
        and all(a in (1, b) for a, b in zip(shape, out, strict=True))
    )


def _stretched(operand: Reaches, shape: Sequence[int], out: Sequence[int]) -> Reaches:
    def move(reach: Reach) -> Reach:
        fixed = reach.axis is None or shape[reach.axis] == out[reach.axis]
        return reach if fixed else reach.collapsed(1)

    return _each(operand, move)


def _mixed(operand: Reaches, shape: Sequence[int]) -> Reaches:
    """After an operation of which nothing is known: every position may depend on all."""
    return _each(
        operand, lambda reach: reach if reach.axis is None else reach.collapsed(shape[reach.axis])
    )


def _each(operand: Reaches, move: Callable[[Reach], Reach]) -> Reaches:
    return None if operand is None else tuple(move(reach) for reach in operand)


def _union(operands: list[tuple[Reach, ...]]) -> Reaches:
    """Of several operands that meet position by position."""
    joined = []
    for group in zip(*operands, strict=True):
        moving = [reach for reach in group if reach.axis is not None]
        base = moving[0] if moving else group[0]
        low, high = min(r.low for r in group), max(r.high for r in group)
        if any((r.axis, r.jump) != (base.axis, base.jump) for r in group):
            low, high = -math.inf, math.inf  # fixed input positions meet moving ones
        joined.append(base._replace(low=low, high=high))
    return tuple(joined)


# One rule per kind of operation: (parameters, operands' shapes, operands, result's shape) -> operands moved.


def _convolution(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    numbers = params["dimension_numbers"]
    (_, lhs_channels, *lhs), (_, _, *window), (_, _, *result) = numbers
    to = {axis: i for i, axis in enumerate(lhs)}

    def move(reach: Reach) -> Reach:
        if reach.axis not in to:
            return reach if reach.axis is None else reach.collapsed(shapes[0][reach.axis])
        i = to[reach.axis]
        grown = params["lhs_dilation"][i]
        reach = reach._replace(jump=reach.jump / grown) if grown > 1 else reach
        return reach.window(
            shapes[1][window[i]],
            params["window_strides"][i],
            params["rhs_dilation"][i],
            params["padding"][i][0],
            result[i],
        )

    return [_each(operands[0], move), _mixed(operands[1], shapes[1])]


def _house_window(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    spec = params["spec"]  # of cnn.layers: channels last
    window = getattr(spec, "window", None) or shapes[1]  # a convolution's is that of its kernel

    def move(reach: Reach) -> Reach:
        if reach.axis is None:
            return reach
        i = reach.axis - 1
        return reach.window(window[i], spec.strides[i], spec.dilation[i], spec.padding[i][0], reach.axis)

    return [_each(operands[0], move), *map(_mixed, operands[1:], shapes[1:])]


def _reduce_window(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    def move(reach: Reach) -> Reach:
        if (axis := reach.axis) is None:
            return reach
        low = params["padding"][axis][0]
        dilation = params["window_dilation"][axis] if "window_dilation" in params else 1
        return reach.window(
            params["window_dimensions"][axis], params["window_strides"][axis], dilation, low, axis
        )

    return [_each(operand, move) for operand in operands]


def _broadcast(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    def move(reach: Reach) -> Reach:
        if reach.axis is None:
            return reach
        axis = params["broadcast_dimensions"][reach.axis]
        same = shapes[0][reach.axis] == out[axis]
        return reach._replace(axis=axis) if same else reach.collapsed(1)

    return [_each(operand, move) for operand in operands]


def _reduce(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    axes = params["axes"] if "axes" in params else params["dimensions"]

    def move(reach: Reach) -> Reach:
        if reach.axis is None:
            return reach
        if reach.axis in axes:
            return reach.collapsed(shapes[0][reach.axis])
        return reach._replace(axis=reach.axis - sum(axis < reach.axis for axis in axes))

    return [_each(operand, move) for operand in operands]


def _transpose(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    order = params["permutation"]
    return [
        _each(o, lambda r: r if r.axis is None else r._replace(axis=order.index(r.axis)))
        for o in operands
    ]


def _pad(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    def move(reach: Reach) -> Reach:
        if reach.axis is None:
            return reach
        low, _, inside = map(int, params["padding_config"][reach.axis])
        return reach._replace(jump=reach.jump / (inside + 1)).window(1, 1, 1, low, reach.axis)

    return [_each(operands[0], move), _mixed(operands[1], shapes[1])]


def _slice(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    strides = params["strides"] or (1,) * len(shapes[0])

    def move(reach: Reach) -> Reach:
        if (axis := reach.axis) is None:
            return reach
        return reach.window(1, int(strides[axis]), 1, -int(params["start_indices"][axis]), axis)

    return [_each(operand, move) for operand in operands]


def _concatenate(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    return [
        _each(o, lambda r, s=s: r.collapsed(s[r.axis]) if r.axis == params["dimension"] else r)
        for o, s in zip(operands, shapes, strict=True)
    ]


def _dot(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    contracted, batch = params["dimension_numbers"]
    moved, free_before = [], 0
    for side, operand in enumerate(operands):
        kept = [
            a
            for a in range(len(shapes[side]))
            if a not in contracted[side] and a not in batch[side]
        ]
        to = {axis: i for i, axis in enumerate(batch[side])}
        to |= {axis: len(batch[0]) + free_before + i for i, axis in enumerate(kept)}
        free_before += len(kept)

        def move(reach: Reach, to: dict[int, int] = to, shape: Any = shapes[side]) -> Reach:
            if reach.axis is None:
                return reach
            return (
                reach._replace(axis=to[reach.axis])
                if reach.axis in to
                else reach.collapsed(shape[reach.axis])
            )

        moved.append(_each(operand, move))
    return moved


def _reshape(params: Any, shapes: Any, operands: list[Reaches], out: Any) -> list[Reaches]:
    old = shapes[0]
    groups = list(_factors(old, out))

    def move(reach: Reach) -> Reach:
        if (axis := reach.axis) is None:
            return reach
        if (
            old[axis] == 1
        ):  # no factor of the size: found by its place from the back, then from the front
            places = [axis + len(out) - len(old), axis]
            found = next((p for p in places if 0 <= p < len(out) and out[p] == 1), None)
            return reach.collapsed(1) if found is None else reach._replace(axis=found)
        before, after = next(group for group in groups if axis in group[0])
        if len(before) > 1:
            return reach.collapsed(old[axis])
        inner = math.prod(
            out[a] for a in after[1:]
        )  # of an axis that is split, the outer part moves
        return reach.window(inner, inner, 1, 0, after[0])

    return [_each(operand, move) for operand in operands]


def _factors(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Axes larger than 1 of two shapes, in the smallest groups whose sizes multiply to the same."""
    left = [axis for axis, size in enumerate(old) if size != 1]
    right = [axis for axis, size in enumerate(new) if size != 1]
    while left or right:
        before, after = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(old[i] for i in before)) != (b := math.prod(new[i] for i in after)):
            if a < b:
                before.append(left.pop(0))
            else:
                after.append(right.pop(0))
        yield before, after


RULES: dict[str, Callable[..., list[Reaches]]] = {
    "conv_general_dilated": _convolution,
    "cnn_conv": _house_window,
    "cnn_max_pool": _house_window,
    "reduce_window*": _reduce_window,
    "reduce_precision": lambda params, shapes, operands, out: operands,
    "reduce_*": _reduce,
    "argmax": _reduce,
    "argmin": _reduce,
    "squeeze": _reduce,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "reshape": _reshape,
    "pad": _pad,
    "slice": _slice,
    "concatenate": _concatenate,
    "dot_general": _dot,
}
