"""Transforms of images: `image` uint8 `h w c` in 0..255 (stacked `b h w c` where batched)."""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from cnn.draws import Draws, Number
from cnn.errors import UserError
from cnn.transforms.masks import mask_moved, nearest

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


def to_size(example: Example, height: int, width: int, method: str = "area") -> Example:
    """The example with its image resized, and of its mask the nearest labels."""
    image = {"image": resized(example["image"], height, width, method)}
    return example | image | mask_moved(example, lambda mask: nearest(mask, height, width))


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
        return to_size(example, *sides, self.method)


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resizes to `size` pixels (one number, or height and width), whatever the aspect ratio."""

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "image"
    size: int | tuple[int, int]

    def __post_init__(self):
        pair(self.size)

    def __call__(self, example: Example, draws: Draws) -> Example:
        return to_size(example, *pair(self.size))


@dataclasses.dataclass(frozen=True)
class RandomScale:
    """Resizes by a random factor in `factor` = (low, high), drawn on a logarithmic scale; a crop makes it a batch."""

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "image"
    factor: tuple[Number, Number] = (0.5, 2.0)

    def __post_init__(self):
        check_range("factor", self.factor, 0.0, math.inf)

    def __call__(self, example: Example, draws: Draws) -> Example:
        low, high = np.log(self.factor)
        factor = float(np.exp(draws.uniform(low, high)[0]))
        height, width = example["image"].shape[:2]
        return to_size(example, max(1, round(height * factor)), max(1, round(width * factor)))


def check_range(name: str, value: tuple[Number, Number], low: Number, high: Number) -> None:
    """Raises ValueError where `value` is no rising pair within low..high."""
    if len(value) != 2 or not low < value[0] <= value[1] <= high:
        raise ValueError(f"{name} must be (low, high) with {low} < low <= high <= {high}, got {value}")


def check_probability(p: Number) -> None:
    """Raises ValueError where `p` is no probability."""
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in 0..1, got {p}")


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
