"""Rotation, scale, shear and translation of images in one resampling."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from cnn.data.order import Draws, Number

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Affine:
    """A random affine map about the centre, bilinear; what comes in from outside is black.

    Each is drawn uniformly from +- its value, the scale on a logarithmic axis.

    Attributes:
      degrees: of rotation.
      scale: 0.1 is by a factor between 1/1.1 and 1.1.
      shear: 0.1 is a slope of up to 0.1 along the width.
      shift: of the height and of the width, as fractions of them.
    """

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"
    degrees: Number = 10.0
    scale: Number = 0.1
    shear: Number = 0.1
    shift: Number = 0.0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")

    def __call__(self, example: Example, draws: Draws) -> Example:
        image = example["image"]
        height, width = image.shape[1:3]
        angle = np.radians(draws.uniform(-self.degrees, self.degrees))
        size = np.exp(draws.uniform(-1, 1) * np.log1p(self.scale))
        shear = draws.uniform(-self.shear, self.shear)
        move = draws.uniform(-self.shift, self.shift, (2,)) * [height, width]
        # From output to input: rows of [[cos, sin], [-sin, cos]] [[1, 0], [shear, 1]] / size.
        cos, sin = np.cos(angle) / size, np.sin(angle) / size
        matrix = np.stack([np.stack([cos + sin * shear, sin], -1), np.stack([cos * shear - sin, cos], -1)], -2)
        return example | {"image": resample(image, matrix.astype(np.float32), move.astype(np.float32))}


def resample(
    image: UInt8[np.ndarray, "b h w c"],
    matrix: Float[np.ndarray, "b 2 2"],
    move: Float[np.ndarray, "b 2"],
) -> UInt8[np.ndarray, "b h w c"]:
    """The image at `matrix @ (y, x) + move`, with (y, x) pixels from the centre; bilinear, black outside."""
    count, height, width, _ = image.shape
    middle = np.array([height - 1, width - 1], np.float32) / 2
    grid = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(np.float32) - middle
    place = grid[None] @ matrix.transpose(0, 2, 1) + (move + middle)[:, None]
    low = np.floor(place).astype(np.int32)
    part = place - low
    black = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))  # a border to read from outside
    rows = np.arange(count)[:, None]
    result = np.zeros((count, height * width, image.shape[3]), np.float32)
    for down in (0, 1):
        for right in (0, 1):
            y = np.clip(low[..., 0] + down + 1, 0, height + 1)
            x = np.clip(low[..., 1] + right + 1, 0, width + 1)
            weight = np.abs(1 - down - part[..., 0]) * np.abs(1 - right - part[..., 1])
            result += weight[..., None] * black[rows, y, x]
    return np.rint(result).astype(np.uint8).reshape(image.shape)
