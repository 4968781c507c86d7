"""Dense prediction of inputs that are larger than memory: tile by tile, overlapping tiles blended, on the host.

Tiles are visited row by row along the first axis. What no later tile reaches is divided by its weights, finished and
handed over, so the sums in memory are one row of tiles deep whatever the input's size; input and result may both be
memory-mapped files.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Num, Shaped

from cnn.draws import Number
from cnn.errors import UserError, unknown

BLENDS = ("constant", "linear", "gaussian")
SIGMA = 1 / 8  # of 'gaussian', in tiles, as nnU-Net has it (Isensee et al. 2021, arXiv 1809.10486)
LEAST = 1e-3  # weight of a tile's corner relative to its centre, so that nothing is divided by zero


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How an input of any size is cut.

    Attributes:
      tile: size of a tile, one number per axis: what the network is given.
      overlap: of neighbouring tiles, as a share of the tile; tiles are spread evenly, so it may be more.
      blend: weights of a tile's pixels: 'gaussian' or 'linear' (the middle counts most), 'constant'.
      margin: pixels along a tile's edges that do not count at all, unless they are the input's edge too. With as many
        as the network's receptive field reaches, the result is that of the whole input; less approximates it.
      multiple: tiles start at multiples of it: the network's total stride, so that its grids of pixels agree.
    """

    tile: tuple[int, ...]
    overlap: Number = 0.5
    blend: str = "gaussian"
    margin: int = 0
    multiple: int = 1

    def __post_init__(self):
        if self.blend not in BLENDS:
            raise unknown("blend", self.blend, BLENDS)
        if not 0 <= self.overlap < 1 or self.margin < 0 or self.multiple < 1 or min(self.tile) < 1:
            raise UserError(
                f"{self}: overlap must be in [0, 1), margin at least 0, multiple and every size of the tile at least 1"
            )
        if any(size < 2 * self.margin + self.multiple for size in self.tile):
            raise UserError(
                f"tiles of {'x'.join(map(str, self.tile))} are too small for a margin of {self.margin}: at least "
                f"{2 * self.margin + self.multiple} along each axis"
            )

    def starts(self, axis: int, size: int) -> list[int]:
        """Where the tiles of an axis of `size` pixels begin. The last one may reach over its end."""
        tile, unit = self.tile[axis], self.multiple
        step = min(tile - 2 * self.margin, round(tile * (1 - self.overlap))) // unit or 1  # all in units from here on
        last = -(-max(size - tile, 0) // unit)
        count = -(-last // step) + 1
        return [unit * round(last * i / max(count - 1, 1)) for i in range(count)]

    def weights(self, axis: int, start: int, size: int) -> Float32[np.ndarray, " n"]:
        """Of the pixels along an axis of the tile that begins at `start`; 0 where they do not count."""
        tile = self.tile[axis]
        place = np.arange(tile)
        off_centre = np.abs(place - (tile - 1) / 2) / tile  # 0 to 1/2
        profile = {
            "constant": np.ones(tile),
            "linear": 1 - 2 * off_centre,
            "gaussian": np.exp(-0.5 * (off_centre / SIGMA) ** 2),
        }[self.blend]
        counts = (place >= (self.margin if start > 0 else 0)) & (start + place < size)
        if start + tile < size:
            counts &= place < tile - self.margin
        return np.where(counts, np.maximum(profile, LEAST), 0).astype(np.float32)


def tiled(
    predict: Callable[[Float32[np.ndarray, "b *tile c"]], Any],
    x: Num[np.ndarray, "*space c"],
    tiling: Tiling,
    *,
    batch: int = 1,
    finish: Callable[[Float32[np.ndarray, "*slab k"]], np.ndarray] = lambda values: values,
    out: np.ndarray | None = None,
) -> Shaped[np.ndarray, "..."]:
    """The blended answers to all tiles of `x`.

    Args:
      predict: takes `batch` tiles, returns [b *tile k] (a JAX array will do), at the tiles' own resolution.
      x: of any spatial rank; may be memory-mapped: it is read a tile at a time. What a tile reaches beyond it is 0.
      finish: what is kept of blended values, pixel by pixel, for instance their argmax.
      out: where to put it, for instance a memory-mapped array; None makes an array.

    Raises:
      UserError: another rank than the tiles have.
    """
    slabs = blended(predict, x, tiling, batch)
    for start, stop, values in slabs:
        part = finish(values)
        if out is None:
            out = np.empty((x.shape[0], *part.shape[1:]), part.dtype)
        out[start:stop] = part
    assert out is not None  # there is at least one slab
    return out


def blended(
    predict: Callable[[Float32[np.ndarray, "b *tile c"]], Any],
    x: Num[np.ndarray, "*space c"],
    tiling: Tiling,
    batch: int = 1,
) -> Iterator[tuple[int, int, Float32[np.ndarray, "*slab k"]]]:
    """(start, stop, values of x[start:stop]) along the first axis, in order; see `tiled`."""
    space = x.shape[:-1]
    if len(space) != len(tiling.tile):
        raise UserError(f"tiles of {tiling.tile} for an input of shape {x.shape}: give one size per spatial axis")
    rows, *others = (tiling.starts(axis, size) for axis, size in enumerate(space))
    depth = tiling.tile[0]
    sums: np.ndarray | None = None  # of the slab that begins at the current row of tiles
    shares = np.zeros((depth, *space[1:]), np.float32)
    for row, following in zip(rows, [*rows[1:], space[0]], strict=True):
        places = [(row, *rest) for rest in itertools.product(*others)]
        for first in range(0, len(places), batch):
            chosen = places[first : first + batch]
            given = chosen + chosen[:1] * (batch - len(chosen))  # one shape, one compilation
            answers = np.asarray(predict(np.stack([_cut(x, place, tiling.tile) for place in given])))
            if answers.shape[1:-1] != tiling.tile:
                raise ValueError(f"tiles of {tiling.tile} were answered with {answers.shape[1:-1]}")
            if sums is None:
                sums = np.zeros((*shares.shape, answers.shape[-1]), np.float32)
            for place, answer in zip(chosen, answers, strict=False):
                _add(sums, shares, answer, place, space, tiling)
        assert sums is not None
        done = following - row
        values = sums[:done]
        values /= np.where(shares[:done] > 0, shares[:done], 1)[..., None]
        yield row, following, values
        for kept in (sums, shares):  # what later tiles still reach moves up
            kept[: depth - done] = kept[done:].copy() if done < depth else kept[:0]
            kept[max(depth - done, 0) :] = 0


def _cut(x: Any, place: Sequence[int], tile: Sequence[int]) -> Float32[np.ndarray, "*tile c"]:
    part = x[tuple(slice(start, start + size) for start, size in zip(place, tile, strict=True))]
    missing = [(0, size - have) for size, have in zip(tile, part.shape[:-1], strict=True)]
    return np.pad(np.asarray(part, np.float32), [*missing, (0, 0)])


def _add(sums: Any, shares: Any, answer: Any, place: Sequence[int], space: Sequence[int], tiling: Tiling) -> None:
    weight = np.ones((), np.float32)
    for axis, (start, size) in enumerate(zip(place, space, strict=True)):
        along = tiling.weights(axis, start, size)[: size - start]
        weight = np.multiply.outer(weight, along)
    inside = tuple(slice(length) for length in weight.shape)
    target = (inside[0], *(slice(s, s + n) for s, n in zip(place[1:], weight.shape[1:], strict=True)))
    sums[target] += weight[..., None] * answer[inside]
    shares[target] += weight


def slab_bytes(space: Sequence[int], tiling: Tiling, classes: int) -> int:
    """Bytes of the sums that `tiled` holds, whatever the length of the first axis."""
    return 4 * (classes + 1) * tiling.tile[0] * math.prod(space[1:])
