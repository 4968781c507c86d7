"""One map per geometric transform: where it puts pixels, and with them masks, boxes and points.

    example, done = apply.traced(example, transforms)  # the composed map of everything that was done to an example
    done.forward(points)                               # from the input to the output, [..., r]
    done.backward(points)                              # from the output to the input
    boxes, kept = done.move_boxes(boxes)               # clipped to the output; kept: enough of the box is inside
    mask = done.move_mask(mask)                        # nearest class; IGNORE where it comes from outside
    done.inverse().move_mask(predicted)                # lies over the input again
    compose([first, second])                           # one map that does the first, then the second

Coordinates are continuous and in the order of the axes (y, x of images; z, y, x of volumes; t of series): pixel i
covers [i, i + 1) and its centre is i + 0.5. A box is its low corner followed by its high corner, so `yxyx` for images
and (start, end) for series. All but `Bend` are affine.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer

from cnn.draws import Number
from cnn.features import IGNORE

NUDGE = 1e-6  # pixels: an edge between two pixels, up to rounding, belongs to the second
ITERATIONS, EXACT = 200, 1e-7  # at most, and pixels: of inverting a displacement field
SIDES = 9  # points along each side of a box that is bent
SLAB = 1 << 20  # pixels whose places are computed at a time

Size = tuple[int, ...]
Points = Float[np.ndarray, "*n r"]


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """output = matrix @ input + offset."""

    matrix: Float[np.ndarray, "r r"]
    offset: Float[np.ndarray, " r"]

    def forward(self, points: Points) -> Points:
        """From the input to the output."""
        return points @ self.matrix.T + self.offset

    def inverse(self) -> "Linear":
        """From the output to the input."""
        back = np.linalg.inv(self.matrix)
        return Linear(back, -back @ self.offset)

    def then(self, after: "Linear") -> "Linear":
        """This one, then `after`."""
        return Linear(after.matrix @ self.matrix, after.matrix @ self.offset + after.offset)


@dataclasses.dataclass(frozen=True, eq=False)
class Bend:
    """input = output + displacement(output): given at the centres of the pixels, linear between them, constant outside.

    Attributes:
      displacement: in pixels, along each axis.
      inverted: output = input + displacement(input) instead.
    """

    displacement: Float32[np.ndarray, "r *space"]
    inverted: bool = False

    def forward(self, points: Points) -> Points:
        """From the input to the output."""
        return self._displaced(points) if self.inverted else self._solved(points)

    def inverse(self) -> "Bend":
        """From the output to the input."""
        return Bend(self.displacement, not self.inverted)

    def _at(self, points: Points) -> Points:
        from scipy import ndimage

        places = np.moveaxis(points, -1, 0) - 0.5
        moves = [ndimage.map_coordinates(axis, places, np.float64, 1, mode="nearest") for axis in self.displacement]
        return np.stack(moves, -1)

    def _displaced(self, points: Points) -> Points:
        return points + self._at(points)

    def _solved(self, points: Points) -> Points:
        """x with x + displacement(x) = points, by damped iteration; where the field folds, one of several."""
        found = points - self._at(points)
        for _ in range(ITERATIONS):
            error = points - self._displaced(found)
            if np.abs(error).max(initial=0.0) < EXACT:
                break
            found = found + error / 2  # half a step: this converges where nothing folds
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Map:
    """A map from an input to an output.

    Attributes:
      before, after: sizes of the two along their spatial axes, in pixels.
      parts: what happens, in this order.
    """

    before: Size
    after: Size
    parts: tuple[Linear | Bend, ...]

    @property
    def linear(self) -> Linear | None:
        """The whole map as one matrix; None where something is bent."""
        return self.parts[0] if len(self.parts) == 1 and isinstance(self.parts[0], Linear) else None

    def forward(self, points: Points) -> Points:
        """Where points of the input are in the output, in the type of `points`; they may lie outside."""
        found = points.astype(np.float64)
        for part in self.parts:
            found = part.forward(found)
        return found.astype(points.dtype)

    def backward(self, points: Points) -> Points:
        """Where points of the output come from; the inverse of `forward`."""
        return self.inverse().forward(points)

    def inverse(self) -> "Map":
        """From the output to the input."""
        return Map(self.after, self.before, tuple(part.inverse() for part in reversed(self.parts)))

    def inside(self, points: Points) -> Bool[np.ndarray, "*n"]:
        """Which points of the output lie within it, its edges included."""
        return ((points >= 0) & (points <= np.array(self.after))).all(-1)

    def move_boxes(
        self, boxes: Float[np.ndarray, "n s"], visible: Number = 0.5
    ) -> tuple[Float[np.ndarray, "n s"], Bool[np.ndarray, " n"]]:
        """The boxes around what each box becomes, clipped to the output, and which of them to keep.

        Args:
          visible: the least share of a box, of its own extent after the map, that is inside. With 0.5 or more the
            centre of what is kept is inside too; 0 keeps all.
        """
        rank = len(self.before)
        low, high = boxes[:, None, :rank].astype(np.float64), boxes[:, None, rank:].astype(np.float64)
        steps = np.linspace(0, 1, 2 if self.linear else SIDES)
        shares = np.array([share for share in itertools.product(steps, repeat=rank) if _on_an_edge(share)])
        corners = self.forward(low + shares * (high - low))
        low, high = corners.min(1), corners.max(1)
        clipped_low, clipped_high = (np.clip(side, 0, self.after) for side in (low, high))
        whole = high - low
        flat = whole <= 0  # no extent: all of it is inside, or nothing
        inside = np.where((low >= 0) & (high <= self.after), 1.0, 0.0)
        share = np.where(flat, inside, (clipped_high - clipped_low) / np.where(flat, 1.0, whole))
        moved = np.concatenate([clipped_low, clipped_high], -1).astype(boxes.dtype)
        return moved, share.prod(-1) >= visible

    def move_mask(
        self, mask: Integer[np.ndarray, "*space"], fill: int = IGNORE
    ) -> Integer[np.ndarray, "*after"]:
        """The class at each pixel of the output: that of the pixel that its centre comes from; `fill` outside."""
        linear = self.linear
        if linear is not None and not np.any(linear.matrix - np.diag(np.diag(linear.matrix))):
            return self._gathered(mask, linear.inverse(), fill)
        result = np.empty(self.after, mask.dtype)
        back = self.inverse()
        rows = max(1, SLAB * self.after[0] // max(result.size, 1))
        for start in range(0, self.after[0], rows):
            part = result[start : start + rows]
            grid = np.stack(np.meshgrid(*map(np.arange, part.shape), indexing="ij"), -1) + 0.5
            grid[..., 0] += start
            places = np.floor(back.forward(grid) + NUDGE).astype(np.int64)
            outside = ((places < 0) | (places >= np.array(self.before))).any(-1)
            places[outside] = 0
            part[...] = np.where(outside, fill, mask[tuple(np.moveaxis(places, -1, 0))])
        return result

    def _gathered(self, mask: Any, back: Linear, fill: int) -> np.ndarray:
        """`move_mask` where each axis goes its own way."""
        places, outside = [], np.zeros(self.after, bool)
        for axis, (have, size) in enumerate(zip(self.before, self.after, strict=True)):
            centres = np.arange(size) + 0.5
            place = np.floor(centres * back.matrix[axis, axis] + back.offset[axis] + NUDGE).astype(np.int64)
            out = (place < 0) | (place >= have)
            outside |= out.reshape([-1 if other == axis else 1 for other in range(len(self.after))])
            places.append(np.clip(place, 0, max(have - 1, 0)))
        result = mask[np.ix_(*places)]
        result[outside] = fill
        return result


def _on_an_edge(share: tuple[float, ...]) -> bool:
    """Whether a place of a box is on its surface."""
    return any(s in (0, 1) for s in share)


def compose(maps: Sequence[Map]) -> Map:
    """The maps one after the other, as one.

    Raises:
      ValueError: there is none, or one does not begin where the one before it ends.
    """
    if not maps:
        raise ValueError("no maps to compose")
    parts: list[Linear | Bend] = []
    for before, after in itertools.pairwise(maps):
        if before.after != after.before:
            raise ValueError(f"a map to {before.after} cannot be followed by one from {after.before}")
    for part in itertools.chain.from_iterable(found.parts for found in maps):
        last = parts[-1] if parts else None
        if isinstance(last, Linear) and isinstance(part, Linear):
            parts[-1] = last.then(part)
        else:
            parts.append(part)
    return Map(maps[0].before, maps[-1].after, tuple(parts))


def _size(values: Sequence[Any]) -> Size:
    return tuple(int(value) for value in values)


def identity(size: Sequence[int]) -> Map:
    """The output is the input."""
    return crop(size, np.zeros(len(size)), size)


def crop(before: Sequence[int], start: Any, after: Sequence[int]) -> Map:
    """The part of size `after` that begins at `start`; what of it lies outside is padding. Also any translation."""
    part = Linear(np.eye(len(before)), -np.asarray(start, np.float64))
    return Map(_size(before), _size(after), (part,))


def resize(before: Sequence[int], after: Sequence[int]) -> Map:
    """The whole input becomes the whole output."""
    scale = np.array(after, np.float64) / np.array(before)
    return Map(_size(before), _size(after), (Linear(np.diag(scale), np.zeros(len(scale))),))


def mirror(size: Sequence[int], axes: Sequence[int]) -> Map:
    """Mirrored along `axes`."""
    sign, offset = np.ones(len(size)), np.zeros(len(size))
    for axis in axes:
        sign[axis], offset[axis] = -1, size[axis]
    return Map(_size(size), _size(size), (Linear(np.diag(sign), offset),))


def turn(size: Sequence[int], quarters: int) -> Map:
    """Rotated by `quarters` times 90 degrees, as `np.rot90` does."""
    height, width = size
    quarters %= 4
    matrix = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), quarters).astype(np.float64)
    offset = {0: (0, 0), 1: (width, 0), 2: (height, width), 3: (0, height)}[quarters]
    after = (width, height) if quarters % 2 else (height, width)
    return Map(_size(size), _size(after), (Linear(matrix, np.array(offset, np.float64)),))


def about_centre(
    before: Sequence[int],
    after: Sequence[int],
    matrix: Float[np.ndarray, "r r"],
    centre: Float[np.ndarray, " r"],
    displacement: Float[np.ndarray, "r *space"] | None = None,
) -> Map:
    """input = matrix @ (output - middle of the output) + centre + displacement.

    Args:
      matrix: from output to input, about the middle of the output.
      centre: what of the input is there.
      displacement: at each pixel of the output, in pixels of the input.
    """
    matrix = matrix.astype(np.float64)
    back = Linear(matrix, centre - matrix @ (np.array(after, np.float64) / 2))
    parts: tuple[Linear | Bend, ...] = (back.inverse(),)
    if displacement is not None:  # within the output, before the matrix: matrix @ (output + bent) = ... + displacement
        bent = np.tensordot(np.linalg.inv(matrix), displacement, 1)
        parts = (*parts, Bend(bent.astype(np.float32)))
    return Map(_size(before), _size(after), parts)
