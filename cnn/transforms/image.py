"""Transforms of images: `image` uint8 `h w c` in 0..255 (stacked `b h w c` where batched)."""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from cnn.draws import Draws, Number
from cnn.pixels import MAX_PIXELS, METHODS, as_channels, resized
from cnn.transforms import maps
from cnn.transforms.maps import Map
from cnn.transforms.masks import mask_moved, moved, nearest
from cnn.transforms.options import check_probability, check_range, pair
from cnn.transforms.rows import Geometric

Example = dict[str, Any]


def to_size(example: Example, height: int, width: int, method: str = "area") -> Example:
    """The example with its image resized, and of its mask the nearest labels."""
    image = {"image": resized(example["image"], height, width, method)}
    return example | image | mask_moved(example, lambda mask: nearest(mask, height, width))


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


class Resizing(Geometric):
    """Base of transforms that resize the whole image."""

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "image"
    method = "area"

    def sides(self, height: int, width: int, draws: Draws) -> tuple[int, int]:
        """(height, width) of the result."""
        raise NotImplementedError

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        height, width = example["image"].shape[:2]
        return [maps.resize((height, width), self.sides(height, width, draws))]

    def __call__(self, example: Example, draws: Draws) -> Example:
        sides = self.sides(*example["image"].shape[:2], draws)
        return to_size(example, *sides, self.method)


@dataclasses.dataclass(frozen=True)
class ResizeShort(Resizing):
    """Resizes so that the short side has `size` pixels; keeps the aspect ratio. `method` as in `resized`.

    Of an image so narrow that it would become larger than `cnn.pixels.MAX_PIXELS`, only the middle is resized, LONGEST
    times as long as wide; a crop that follows takes less than that.
    """

    LONGEST: ClassVar[int] = 16
    size: int
    method: str = "area"

    def __post_init__(self):
        super().__post_init__()
        pair(self.size)
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got '{self.method}'")

    def sides(self, height: int, width: int, draws: Draws) -> tuple[int, int]:
        factor = self.size / min(height, width)
        return max(self.size, round(height * factor)), max(self.size, round(width * factor))

    def part(self, height: int, width: int, draws: Draws) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, left), (height, width)) of what is resized: nearly always the whole."""
        if math.prod(self.sides(height, width, draws)) <= max(MAX_PIXELS, height * width):
            return (0, 0), (height, width)
        longest = self.LONGEST * min(height, width)
        size = tuple(n if n <= longest else longest + (n - longest) % 2 for n in (height, width))  # the middle stays
        return ((height - size[0]) // 2, (width - size[1]) // 2), size

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        have = example["image"].shape[:2]
        start, size = self.part(*have, draws)
        return [maps.compose([maps.crop(have, start, size), maps.resize(size, self.sides(*size, draws))])]

    def __call__(self, example: Example, draws: Draws) -> Example:
        (top, left), (height, width) = self.part(*example["image"].shape[:2], draws)
        part = moved(example, lambda x: x[top : top + height, left : left + width])
        return to_size(part, *self.sides(height, width, draws), self.method)


@dataclasses.dataclass(frozen=True)
class Resize(Resizing):
    """Resizes to `size` pixels (one number, or height and width), whatever the aspect ratio."""

    size: int | tuple[int, int]

    def __post_init__(self):
        super().__post_init__()
        pair(self.size)

    def sides(self, height: int, width: int, draws: Draws) -> tuple[int, int]:
        return pair(self.size)


@dataclasses.dataclass(frozen=True)
class RandomScale(Resizing):
    """Resizes by a random factor in `factor` = (low, high), drawn on a logarithmic scale; a crop makes it a batch."""

    factor: tuple[Number, Number] = (0.5, 2.0)

    def __post_init__(self):
        super().__post_init__()
        check_range("factor", self.factor, 0.0, math.inf)

    def sides(self, height: int, width: int, draws: Draws) -> tuple[int, int]:
        low, high = np.log(self.factor)
        factor = float(np.exp(draws.uniform(low, high)[0]))
        return max(1, round(height * factor)), max(1, round(width * factor))


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
