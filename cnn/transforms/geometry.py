"""Crops, shifts, flips and turns of images and all that moves with them (`h w c`, stacked `b h w c` where batched)."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64, Integer, Num

from cnn.draws import Draws, Number
from cnn.errors import UserError
from cnn.features import IGNORE
from cnn.transforms import maps
from cnn.transforms.image import to_size
from cnn.transforms.maps import Map
from cnn.transforms.masks import mask_moved, moved
from cnn.transforms.options import check_probability, check_range, pair
from cnn.transforms.rows import Geometric

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class CenterCrop(Geometric):
    """Cuts out the middle.

    Raises:
      UserError: the image is smaller than the crop.
    """

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"
    size: int | tuple[int, int]

    def __post_init__(self):
        super().__post_init__()
        pair(self.size)

    def start(self, have_h: int, have_w: int) -> tuple[int, int]:
        """(top, left) of the part, in an image of this size."""
        height, width = pair(self.size)
        if have_h < height or have_w < width:
            raise UserError(
                f"center_crop of {height}x{width} from an image of {have_h}x{have_w}; "
                f"put ('resize_short', {{'size': {max(height, width)}}}) before it"
            )
        return (have_h - height) // 2, (have_w - width) // 2

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        have = example["image"].shape[1:3]
        return [maps.crop(have, self.start(*have), pair(self.size))] * len(draws)

    def __call__(self, example: Example, draws: Draws) -> Example:
        (height, width), (top, left) = pair(self.size), self.start(*example["image"].shape[1:3])
        return moved(example, lambda x: x[:, top : top + height, left : left + width])


@dataclasses.dataclass(frozen=True)
class RandomCrop(Geometric):
    """Cuts out `size` pixels at a random place. What is smaller is put at a random place on black, its mask on
    IGNORE.
    """

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"
    size: int | tuple[int, int]

    def __post_init__(self):
        super().__post_init__()
        pair(self.size)

    def starts(self, have: Sequence[int], draws: Draws) -> Int64[np.ndarray, "b 2"]:
        """Where each crop begins, measured in the image: negative where the image is the smaller one."""
        span = np.array(have) - pair(self.size)
        return np.minimum(span, 0) + (draws.uniform(shape=(2,)) * (np.abs(span) + 1)).astype(np.int64)

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        have = example["image"].shape[1:3]
        return [maps.crop(have, start, pair(self.size)) for start in self.starts(have, draws)]

    def __call__(self, example: Example, draws: Draws) -> Example:
        size, start = pair(self.size), self.starts(example["image"].shape[1:3], draws)

        def cut(x: np.ndarray, fill: int) -> np.ndarray:
            out = np.full((len(x), *size, *x.shape[3:]), fill, x.dtype)
            for one, target, (top, left) in zip(x, out, start.tolist(), strict=True):
                part = one[max(top, 0) : top + size[0], max(left, 0) : left + size[1]]
                down, right = max(-top, 0), max(-left, 0)
                target[down : down + part.shape[0], right : right + part.shape[1]] = part
            return out

        return example | {"image": cut(example["image"], 0)} | mask_moved(example, lambda mask: cut(mask, IGNORE))


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Geometric):
    """A random part of the image, resized (Szegedy et al. 2015, section 6, as most code does it).

    Args:
      size: pixels of the result.
      area: range of the part's area, as a fraction of the image's.
      aspect: range of its width / height, drawn on a logarithmic scale.
    """

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "image"
    attempts: ClassVar[int] = 10
    size: int | tuple[int, int]
    area: tuple[Number, Number] = (0.08, 1.0)
    aspect: tuple[Number, Number] = (3 / 4, 4 / 3)

    def __post_init__(self):
        super().__post_init__()
        pair(self.size)
        check_range("area", self.area, 0.0, 1.0)
        check_range("aspect", self.aspect, 0.0, math.inf)

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        have = example["image"].shape[:2]
        top, left, *part = self.box(*have, draws)
        return [maps.compose([maps.crop(have, (top, left), part), maps.resize(part, pair(self.size))])]

    def __call__(self, example: Example, draws: Draws) -> Example:
        top, left, height, width = self.box(*example["image"].shape[:2], draws)
        part = moved(example, lambda x: x[top : top + height, left : left + width])
        return to_size(part, *pair(self.size))

    def box(self, height: int, width: int, draws: Draws) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the part."""
        areas = draws.uniform(*self.area, (self.attempts,))[0] * (height * width)
        low, high = np.log(self.aspect)
        ratios = np.exp(draws.uniform(low, high, (self.attempts,))[0])
        where = draws.uniform(shape=(2,))[0]
        for area, ratio in zip(areas, ratios, strict=True):
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < h <= height and 0 < w <= width:
                return int(where[0] * (height - h + 1)), int(where[1] * (width - w + 1)), h, w
        ratio = min(max(width / height, self.aspect[0]), self.aspect[1])  # the middle
        h = min(height, max(1, round(width / ratio)))
        w = min(width, max(1, round(height * ratio)))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclasses.dataclass(frozen=True)
class PadCrop(Geometric):
    """Pads by `padding` pixels and crops back to the old size at a random place (He et al. 2015, 4.2).

    Args:
      mode: what the border holds: 'zero' or 'reflect'.
    """

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"
    padding: int = 4
    mode: str = "zero"

    def __post_init__(self):
        super().__post_init__()
        check_translation(self.padding, self.mode)

    def offsets(self, draws: Draws) -> Int64[np.ndarray, "b 2"]:
        """Where each crop begins in the padded image."""
        return draws.integers(0, 2 * self.padding + 1, (2,))

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        return translations(example["image"].shape[1:3], self.offsets(draws), self.padding)

    def __call__(self, example: Example, draws: Draws) -> Example:
        return translated_example(example, "image", self.offsets(draws), self.padding, self.mode)


_PAD_MODES = {"zero": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def check_translation(amount: int, mode: str) -> None:
    """Raises ValueError for an impossible amount or border mode."""
    if amount < 0:
        raise ValueError(f"must move by 0 or more, got {amount}")
    if mode not in _PAD_MODES:
        raise ValueError(f"mode must be one of {', '.join(_PAD_MODES)}, got '{mode}'")


def translations(size: Sequence[int], offsets: Int64[np.ndarray, "b r"], amount: int) -> list[Map]:
    """The maps of `translated`. What a border mode repeats has no boxes and no points."""
    return [maps.crop(size, offset - amount, size) for offset in offsets]


def translated_example(
    example: Example, key: str, offsets: Num[np.ndarray, "b r"], amount: int, mode: str
) -> Example:
    """The example with `translated` done to `key`, and to its mask or labels; IGNORE is the zero of these."""
    pixels = {key: translated(example[key], offsets, amount, mode)}
    return example | pixels | mask_moved(
        example, lambda mask: translated(mask[..., None], offsets, amount, mode, fill=IGNORE)[..., 0], key
    )


def translated(
    x: Num[np.ndarray, "b *space c"], offsets: Num[np.ndarray, "b r"], amount: int, mode: str, fill: int = 0
) -> Num[np.ndarray, "b *space c"]:
    """x padded by `amount` on both sides of every spatial axis (mode 'zero': with `fill`), then cropped back at
    `offsets`."""
    sides = [(0, 0)] + [(amount, amount)] * (x.ndim - 2) + [(0, 0)]
    if mode == "zero":  # np.pad is slow for small arrays
        shape = [size + 2 * side[0] for size, side in zip(x.shape, sides, strict=True)]
        padded = np.full(shape, fill, x.dtype)
        padded[(slice(None), *[slice(amount, amount + size) for size in x.shape[1:-1]])] = x
    else:
        padded = np.ascontiguousarray(np.pad(x, sides, mode=_PAD_MODES[mode]))
    # A row of the result (last spatial axis and channels) is one run of memory: gather rows, not values.
    pixel, width = x.shape[-1] * x.itemsize, x.shape[-2]
    starts, strides = _rows(x.shape[:-1], padded.shape[1:-1])
    starts = starts + (offsets @ strides).reshape(-1, *[1] * (x.ndim - 3))
    runs = padded.nbytes // pixel - width + 1
    windows = np.ndarray(runs, f"V{width * pixel}", buffer=padded, strides=(pixel,))
    return windows[starts].view(x.dtype).reshape(x.shape)


@functools.lru_cache(maxsize=32)
def _rows(shape: tuple[int, ...], padded: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """First pixel of every row when nothing moves, and how many pixels one step along an axis is."""
    count = np.arange(shape[0] * math.prod(padded)).reshape(shape[0], *padded)
    rows = count[(slice(None), *[slice(size) for size in shape[1:-1]], 0)].copy()
    return rows, np.array([math.prod(padded[axis + 1 :]) for axis in range(len(padded))])


@dataclasses.dataclass(frozen=True)
class Flip(Geometric):
    """Mirrors with probability p along one axis: 'w' (left-right), 'h' (upside down), 't' (time)."""

    batched: ClassVar[bool] = True
    p: Number = 0.5
    axis: str = "w"

    def __post_init__(self):
        super().__post_init__()
        check_probability(self.p)
        if self.axis not in ("w", "h", "t"):
            raise ValueError(f"axis must be w, h or t, got '{self.axis}'")

    @property
    def key(self) -> str:
        """What it mirrors."""
        return "series" if self.axis == "t" else "image"

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        size = example[self.key].shape[1:-1]
        axes = (1,) if self.axis == "w" else (0,)
        return [maps.mirror(size, axes if chosen else ()) for chosen in draws.bernoulli(self.p)]

    def __call__(self, example: Example, draws: Draws) -> Example:
        x = example[self.key]
        axis = 2 if self.axis == "w" else 1
        chosen = np.flatnonzero(draws.bernoulli(self.p))
        out = x.copy(order="C")
        pixels = out.view(f"V{x.shape[-1] * x.itemsize}")  # mirrors pixels, not channels: much faster
        pixels[chosen] = np.flip(pixels[chosen], axis)
        return example | {self.key: out} | mask_moved(example, lambda mask: mirrored(mask, chosen, axis), self.key)


def mirrored(
    mask: Integer[np.ndarray, "b *space"], chosen: Int64[np.ndarray, " n"], axis: int
) -> Integer[np.ndarray, "b *space"]:
    """The masks, those at `chosen` mirrored along `axis`."""
    result = mask.copy()
    result[chosen] = np.flip(mask[chosen], axis)
    return result


@dataclasses.dataclass(frozen=True)
class Rotate90(Geometric):
    """Turns by 0, 90, 180 or 270 degrees, each equally likely; what is not square only by 0 or 180."""

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"

    def turns(self, height: int, width: int, draws: Draws) -> Int64[np.ndarray, " b"]:
        """How often each image is turned."""
        return draws.integers(0, 4) if height == width else 2 * draws.integers(0, 2)

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        have = example["image"].shape[1:3]
        return [maps.turn(have, int(quarters)) for quarters in self.turns(*have, draws)]

    def __call__(self, example: Example, draws: Draws) -> Example:
        turns = self.turns(*example["image"].shape[1:3], draws)

        def turn(x: np.ndarray) -> np.ndarray:
            out = x.copy()
            for k in set(turns.tolist()) - {0}:
                out[turns == k] = np.rot90(x[turns == k], k, axes=(1, 2))
            return out

        return moved(example, turn)
