"""How far each layer is from moving with its input: shift, rotation by 90 degrees and halving, as one number each.

A layer f is equivariant to T when f(T x) = T f(x), with T acting on its own grid. The error is

    || f(T x) - T f(x) || / || T f(x) - its mean over space ||

over all positions and channels: 0 is exact, about 1.4 is as different as two unrelated maps. That strides break it is
the finding of Azulay & Weiss 2018 (arXiv 1805.12177) and Zhang 2019 (arXiv 1904.11486). T is chosen so that nothing
but the layer can be at fault:

  - The input is one period of a periodic signal: it is wrapped around on every moved axis, as far as the layer sees,
    and only the original part of the map is compared. So no border is met: the boundary is circular.
  - shift: the input by k positions. A layer of stride s moves by k / s: where that is no whole number its map is
    interpolated with the trigonometric polynomial through it, which is exact for a map without aliasing.
  - rotation: by 90 degrees about a position of every grid (index i becomes -i), where strided grids meet themselves.
  - scale: input and map are halved by the same low pass and sampling.

`border` is the network's own padding: the error of the map as it is against the one with the circular boundary.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cnn.inspect.network import Layer, Network
from cnn.inspect.receptive import Number

LARGEST = 3  # periods of a large input that wrapping may lay side by side
SMALL = 96  # positions up to which it may wrap around any number
Grid = tuple[Number, Number]  # input positions per position, and the input position of position 0


class Errors(NamedTuple):
    """Of one layer; None where its map is too small to tell.

    Attributes:
      shift: {k: error} of shifts by k positions along the last axis of space.
      blurred: the same with `blur_pool` in place of every stride, the weights unchanged.
      exact: whether the wrapped input was wide enough for all that the layer sees.
    """

    shift: dict[int, float]
    blurred: dict[int, float]
    rotation: float | None
    scale: float | None
    border: float
    exact: bool


def equivariance(
    network: Network, x: Float[np.ndarray, "1 *space c"], names: Sequence[str]
) -> dict[str, Errors]:
    """The errors of the spatial layers among `names`; those with less than two positions on an axis are left out."""
    network, rank = network.headless, x.ndim - 2
    known = network.trace(x.shape).layers
    layers = [known[name] for name in names if name in known and known[name].spatial]
    moved = (rank,) if rank == 1 else (rank - 1, rank)  # in a volume the last two
    layers = [a for a in layers if all(2 * a.strides[axis - 1] <= x.shape[axis] for axis in moved)]
    if not layers:
        return {}
    stride = math.lcm(*(int(a.strides[axis - 1]) for a in layers for axis in moved))
    if any(x.shape[axis] < stride for axis in moved):
        return {}
    measured = _Measured(network, layers, stride)
    period = _cropped(x, moved, stride)
    along = (rank,)
    shifts = [2**i for i in range(stride.bit_length()) if 2**i < stride] + [stride]
    shift, blurred = (
        {
            k: measured.errors(
                period, along, lambda v, axes, grid, k=k: _rolled(v, rank, k / grid[0]), soft
            )
            for k in shifts
        }
        for soft in (False, True)
    )
    own = network.read(period, [a.name for a in layers])
    circular = measured.maps(period, along)
    border = {a.name: _error(*_common(own[a.name], circular[a.name], rank)) for a in layers}
    rotation = {}
    if rank > 1:
        side = min(period.shape[axis] for axis in moved)
        square = tuple(slice(0, side) if axis in moved else slice(None) for axis in range(x.ndim))
        rotation = measured.errors(period[square], moved, _rotated)
    scale = {}
    if all(x.shape[axis] >= 2 * stride for axis in moved):
        found = measured.errors(_cropped(x, moved, 2 * stride), moved, _halved)
        small = {
            a.name for a in layers for axis in moved if x.shape[axis] < 4 * a.strides[axis - 1]
        }
        scale = {name: value for name, value in found.items() if name not in small}
    margin = measured.margin(period.shape, along)
    return {
        a.name: Errors(
            {k: found[a.name] for k, found in shift.items()},
            {k: found[a.name] for k, found in blurred.items()},
            rotation.get(a.name),
            scale.get(a.name),
            border[a.name],
            _sees(a, rank) + stride <= margin,
        )
        for a in layers
    }


class _Measured:
    """Maps of some layers under a circular boundary. All `axes` here are those of [b, *space, c]."""

    def __init__(self, network: Network, layers: Sequence[Layer], stride: int):
        self.network, self.layers, self.stride = network, layers, stride

    def margin(self, shape: Sequence[int], axes: Sequence[int]) -> int:
        """Positions to wrap around on each side: all that a layer sees, in whole strides, within reason.

        One stride more is for the blurs, each of which sees its own step further.
        """
        size = min(shape[axis] for axis in axes)
        most = max(size * (LARGEST - 1) // 2, SMALL) // self.stride * self.stride
        wanted = max(_sees(layer, axis) for layer in self.layers for axis in axes) + self.stride
        return (
            min(math.ceil(wanted / self.stride) * self.stride, most)
            if math.isfinite(wanted)
            else most
        )

    def maps(self, x: Any, axes: Sequence[int], soft: bool = False) -> dict[str, Any]:
        """{layer: map [1, *space, c]} of one period of the input, which has whole strides on `axes`."""
        margin = self.margin(x.shape, axes)
        wide = np.pad(
            x, [(margin, margin) if axis in axes else (0, 0) for axis in range(x.ndim)], mode="wrap"
        )
        found = self.network.read(wide, [layer.name for layer in self.layers], antialias=soft)
        for layer in self.layers:
            for axis in axes:
                jump = int(layer.strides[axis - 1])
                inside = range(margin // jump, (margin + x.shape[axis]) // jump)
                found[layer.name] = np.take(found[layer.name], inside, axis)
        return found

    def errors(
        self, x: Any, axes: Sequence[int], move: Callable[..., Any], soft: bool = False
    ) -> dict[str, float]:
        """The error of each layer against `move(array, axes, grid)`."""
        changed = np.asarray(move(x, axes, (1, 0)), np.float32)
        before, after = self.maps(x, axes, soft), self.maps(changed, axes, soft)
        return {
            a.name: _error(after[a.name], move(before[a.name], axes, _grid(a, axes)))
            for a in self.layers
        }


def _grid(layer: Layer, axes: Sequence[int]) -> Grid:
    reach = layer.reach[axes[0] - 1]
    return reach.jump, reach.start


def _sees(layer: Layer, axis: int) -> Number:
    reach = layer.reach[axis - 1]
    return max(-reach.low, reach.high)


def _cropped(x: Any, axes: Sequence[int], multiple: int) -> Any:
    """The middle of `x`, its sizes on `axes` the largest multiples."""
    for axis in axes:
        size = x.shape[axis] // multiple * multiple
        start = (x.shape[axis] - size) // 2
        x = np.take(x, range(start, start + size), axis)
    return x


def _common(one: Any, other: Any, axis: int) -> tuple[Any, Any]:
    size = min(one.shape[axis], other.shape[axis])
    return np.take(one, range(size), axis), np.take(other, range(size), axis)


def _error(have: Any, want: Any) -> float:
    have, want = np.asarray(have, np.float64), np.asarray(want, np.float64)
    space = tuple(range(1, want.ndim - 1))
    spread = np.square(want - want.mean(axis=space, keepdims=True)).sum()
    away = np.square(have - want).sum()
    return float(np.sqrt(away / spread)) if spread > 0 else 0.0 if away == 0 else math.inf


# Movements of an array along `axes`, of input and maps alike: their grids say how far and about what.


def _rolled(x: Any, axis: int, by: Number) -> Any:
    """A circular shift, by interpolation where it is no whole number of positions."""
    if by == round(by):
        return np.roll(x, round(by), axis)
    size = x.shape[axis]
    phase = np.exp(-2j * np.pi * np.fft.rfftfreq(size) * by)
    if (
        size % 2 == 0
    ):  # the highest frequency has no phase of its own: what is left of it is its real part
        phase[-1] = phase[-1].real
    phase = phase.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return np.fft.irfft(np.fft.rfft(x, axis=axis) * phase, n=size, axis=axis)


def _rotated(x: Any, axes: Sequence[int], grid: Grid) -> Any:
    """y[i, j] = x[j, -i], about input position 0."""
    turned = np.roll(np.flip(np.swapaxes(x, *axes), axes[0]), 1, axes[0])
    return _rolled(turned, axes[0], -2 * grid[1] / grid[0])


def _halved(x: Any, axes: Sequence[int], grid: Grid) -> Any:
    """Every second position along each axis, after a blur with [1 2 1] / 4."""
    for axis in axes:
        x = _rolled(x, axis, -grid[1] / grid[0])
        x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
        x = np.take(x, range(0, x.shape[axis], 2), axis)
    return x
