"""Transforms of images: `image` uint8 `h w c` in 0..255 (stacked `b h w c` where batched)."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Num, UInt8

from cnn.data.order import Draws, Number
from cnn.errors import UserError

Example = dict[str, Any]


METHODS = ("area", "bilinear", "bicubic")


def resized(
    image: UInt8[np.ndarray, "h w c"], height: int, width: int, method: str = "area"
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Resizes: 'area' with cv2 (averages where it shrinks, linear where it grows; the fastest), 'bilinear' and
    'bicubic' with Pillow, whose filters widen where it shrinks, as torchvision, timm and published weights have it.
    """
    import cv2

    if image.shape[:2] == (height, width):
        return image
    if method != "area":
        return _filtered(image, height, width, method)
    cv2.setNumThreads(0)  # the pipeline has its own threads
    shrinks = height * width < image.shape[0] * image.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    result = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=way)
    return result.reshape(height, width, image.shape[2])  # cv2 drops an axis of one channel


def _filtered(
    image: UInt8[np.ndarray, "h w c"], height: int, width: int, method: str
) -> UInt8[np.ndarray, "h2 w2 c"]:
    from PIL import Image

    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[method]
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), how))
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, -1)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be positive, got {size}")
    return height, width


@dataclasses.dataclass(frozen=True)
class Channels:
    """Makes images have `count` (1 or 3) channels; alpha is laid over white, grey is ITU-R 601 luma."""

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"
    count: int = 3

    def __post_init__(self):
        if self.count not in (1, 3):
            raise ValueError(f"count must be 1 or 3, got {self.count}")

    def __call__(self, example: Example, draws: Draws) -> Example:
        return example | {"image": as_channels(example["image"], self.count)}


def as_channels(
    image: UInt8[np.ndarray, "... h w c"], count: int
) -> UInt8[np.ndarray, "... h w c2"]:
    """`image` with `count` (1 or 3) channels."""
    have = image.shape[-1]
    if have not in (1, 2, 3, 4):
        raise UserError(f"an image with {have} channels is neither grey nor RGB")
    if have in (2, 4):  # over white
        alpha = image[..., -1:].astype(np.uint16)
        blended = (image[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255
        image = blended.astype(np.uint8)
    if image.shape[-1] == count:
        return image
    if count == 3:
        return np.repeat(image, 3, axis=-1)
    weights = np.array([19595, 38470, 7471], np.uint32)  # sum 2**16, exact on every machine
    luma = (image.astype(np.uint32) * weights).sum(-1, keepdims=True, dtype=np.uint32)
    return ((luma + 32768) >> 16).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class ResizeShort:
    """Resizes so that the short side has `size` pixels; keeps the aspect ratio. `method` as in `resized`."""

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "image"
    size: int
    method: str = "area"

    def __post_init__(self):
        pair(self.size)
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got '{self.method}'")

    def __call__(self, example: Example, draws: Draws) -> Example:
        height, width = example["image"].shape[:2]
        factor = self.size / min(height, width)
        sides = max(self.size, round(height * factor)), max(self.size, round(width * factor))
        return example | {"image": resized(example["image"], *sides, self.method)}


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resizes to `size` pixels (one number, or height and width), whatever the aspect ratio."""

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "image"
    size: int | tuple[int, int]

    def __post_init__(self):
        pair(self.size)

    def __call__(self, example: Example, draws: Draws) -> Example:
        return example | {"image": resized(example["image"], *pair(self.size))}


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """Cuts out the middle.

    Raises:
      UserError: the image is smaller than the crop.
    """

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"
    size: int | tuple[int, int]

    def __post_init__(self):
        pair(self.size)

    def __call__(self, example: Example, draws: Draws) -> Example:
        image = example["image"]
        (height, width), (have_h, have_w) = pair(self.size), image.shape[1:3]
        if have_h < height or have_w < width:
            raise UserError(
                f"center_crop of {height}x{width} from an image of {have_h}x{have_w}; "
                f"add resize_short=dict(size={max(height, width)}) before it"
            )
        top, left = (have_h - height) // 2, (have_w - width) // 2
        return example | {"image": image[:, top : top + height, left : left + width]}


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
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
        pair(self.size)
        check_range("area", self.area, 0.0, 1.0)
        check_range("aspect", self.aspect, 0.0, math.inf)

    def __call__(self, example: Example, draws: Draws) -> Example:
        image = example["image"]
        top, left, height, width = self.box(*image.shape[:2], draws)
        part = image[top : top + height, left : left + width]
        return example | {"image": resized(part, *pair(self.size))}

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


def check_range(name: str, value: tuple[Number, Number], low: Number, high: Number) -> None:
    """Raises ValueError where `value` is no rising pair within low..high."""
    if len(value) != 2 or not low < value[0] <= value[1] <= high:
        raise ValueError(f"{name} must be (low, high) with {low} < low <= high <= {high}, got {value}")


def check_probability(p: Number) -> None:
    """Raises ValueError where `p` is no probability."""
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in 0..1, got {p}")


@dataclasses.dataclass(frozen=True)
class PadCrop:
    """Pads by `padding` pixels and crops back to the old size at a random place (He et al. 2015, 4.2).

    Args:
      mode: what the border holds: 'zero' or 'reflect'.
    """

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"
    padding: int = 4
    mode: str = "zero"

    def __post_init__(self):
        check_translation(self.padding, self.mode)

    def __call__(self, example: Example, draws: Draws) -> Example:
        image = example["image"]
        offsets = draws.integers(0, 2 * self.padding + 1, (2,))
        return example | {"image": translated(image, offsets, self.padding, self.mode)}


_PAD_MODES = {"zero": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def check_translation(amount: int, mode: str) -> None:
    """Raises ValueError for an impossible amount or border mode."""
    if amount < 0:
        raise ValueError(f"must move by 0 or more, got {amount}")
    if mode not in _PAD_MODES:
        raise ValueError(f"mode must be one of {', '.join(_PAD_MODES)}, got '{mode}'")


def translated(
    x: Num[np.ndarray, "b *space c"], offsets: Num[np.ndarray, "b r"], amount: int, mode: str
) -> Num[np.ndarray, "b *space c"]:
    """x padded by `amount` on both sides of every spatial axis, then cropped back at `offsets`."""
    sides = [(0, 0)] + [(amount, amount)] * (x.ndim - 2) + [(0, 0)]
    if mode == "zero":  # np.pad is slow for small arrays
        shape = [size + 2 * side[0] for size, side in zip(x.shape, sides, strict=True)]
        padded = np.zeros(shape, x.dtype)
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
class Flip:
    """Mirrors with probability p along one axis: 'w' (left-right), 'h' (upside down), 't' (time)."""

    batched: ClassVar[bool] = True
    p: Number = 0.5
    axis: str = "w"

    def __post_init__(self):
        check_probability(self.p)
        if self.axis not in ("w", "h", "t"):
            raise ValueError(f"axis must be w, h or t, got '{self.axis}'")

    @property
    def key(self) -> str:
        """What it mirrors."""
        return "series" if self.axis == "t" else "image"

    def __call__(self, example: Example, draws: Draws) -> Example:
        x = example[self.key]
        axis = 2 if self.axis == "w" else 1
        chosen = np.flatnonzero(draws.bernoulli(self.p))
        out = x.copy(order="C")
        pixels = out.view(f"V{x.shape[-1] * x.itemsize}")  # mirrors pixels, not channels: much faster
        pixels[chosen] = np.flip(pixels[chosen], axis)
        return example | {self.key: out}


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast and saturation, each by a factor in 1 - a .. 1 + a, in this order."""

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"
    brightness: Number = 0.4
    contrast: Number = 0.4
    saturation: Number = 0.4

    def __post_init__(self):
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")

    def __call__(self, example: Example, draws: Draws) -> Example:
        image = example["image"]
        b = len(image)

        def factor(amount):
            return draws.uniform(1 - amount, 1 + amount).astype(np.float32).reshape(b, 1, 1, 1)

        x = np.minimum(image * factor(self.brightness), 255.0)
        grey = as_channels(x.astype(np.uint8), 1)
        # Summed as integers: exact, so the same in every batch layout.
        mean = (grey.sum((1, 2, 3), dtype=np.int64) / grey[0].size).astype(np.float32)
        x = np.clip((x - mean.reshape(b, 1, 1, 1)) * factor(self.contrast) + mean[:, None, None, None],
                    0.0, 255.0)  # fmt: skip
        if image.shape[-1] == 3:
            grey = as_channels(x.astype(np.uint8), 1).astype(np.float32)
            x = np.clip((x - grey) * factor(self.saturation) + grey, 0.0, 255.0)
        return example | {"image": (x + 0.5).astype(np.uint8)}


@dataclasses.dataclass(frozen=True)
class Erase:
    """Erases a random rectangle with probability p (Zhong et al. 2017, algorithm 1).

    Args:
      area: range of the rectangle's area, as a fraction of the image's.
      aspect: range of its height / width.
      fill: 'zero', 'mean' (of the image) or 'noise'.
    """

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"
    attempts: ClassVar[int] = 10
    p: Number = 0.25
    area: tuple[Number, Number] = (0.02, 1 / 3)
    aspect: tuple[Number, Number] = (0.3, 10 / 3)
    fill: str = "zero"

    def __post_init__(self):
        check_probability(self.p)
        check_range("area", self.area, 0.0, 1.0)
        check_range("aspect", self.aspect, 0.0, math.inf)
        if self.fill not in ("zero", "mean", "noise"):
            raise ValueError(f"fill must be zero, mean or noise, got '{self.fill}'")

    def __call__(self, example: Example, draws: Draws) -> Example:
        image = example["image"]
        b, height, width, c = image.shape
        chosen = draws.bernoulli(self.p)
        areas = draws.uniform(*self.area, (self.attempts,)) * (height * width)
        low, high = np.log(self.aspect)
        ratios = np.exp(draws.uniform(low, high, (self.attempts,)))
        where = draws.uniform(shape=(2,))
        noise = draws.stream("noise")
        heights = np.round(np.sqrt(areas * ratios)).astype(np.int64)
        widths = np.round(np.sqrt(areas / ratios)).astype(np.int64)
        fits = (heights >= 1) & (heights < height) & (widths >= 1) & (widths < width)
        first = fits.argmax(1)
        out = image.copy()
        for i in np.flatnonzero(chosen & fits.any(1)).tolist():
            h, w = int(heights[i, first[i]]), int(widths[i, first[i]])
            top = int(where[i, 0] * (height - h + 1))
            left = int(where[i, 1] * (width - w + 1))
            value: Any = 0
            if self.fill == "mean":
                value = image[i].sum((0, 1), dtype=np.int64) // (height * width)
            elif self.fill == "noise":
                value = noise.one(i).integers(0, 256, (h, w, c))[0]
            out[i, top : top + h, left : left + w] = value
        return example | {"image": out}
