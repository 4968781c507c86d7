"""Rotation, scale, shear, translation and elastic deformation of images, in one resampling each."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, UInt8

from cnn.draws import Draws, Number
from cnn.features import IGNORE
from cnn.transforms import maps
from cnn.transforms.maps import Map
from cnn.transforms.masks import mask_moved
from cnn.transforms.rows import Geometric

Example = dict[str, Any]
Places = Float32[np.ndarray, "b n 2"]  # (y, x) pixels of the input that each of h * w output pixels shows


@dataclasses.dataclass(frozen=True)
class Affine(Geometric):
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
        super().__post_init__()
        for name, value in dataclasses.asdict(self).items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")

    def drawn(
        self, height: int, width: int, draws: Draws
    ) -> tuple[Float32[np.ndarray, "b 2 2"], Float32[np.ndarray, "b 2"]]:
        """`matrix` and `move` of `affine_places`."""
        angle = np.radians(draws.uniform(-self.degrees, self.degrees))
        size = np.exp(draws.uniform(-1, 1) * np.log1p(self.scale))
        shear = draws.uniform(-self.shear, self.shear)
        move = draws.uniform(-self.shift, self.shift, (2,)) * [height, width]
        # From output to input: rows of [[cos, sin], [-sin, cos]] [[1, 0], [shear, 1]] / size.
        cos, sin = np.cos(angle) / size, np.sin(angle) / size
        matrix = np.stack([np.stack([cos + sin * shear, sin], -1), np.stack([cos * shear - sin, cos], -1)], -2)
        return matrix.astype(np.float32), move.astype(np.float32)

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        size = example["image"].shape[1:3]
        matrices, moves = self.drawn(*size, draws)
        middle = np.array(size) / 2
        return [maps.about_centre(size, size, a, middle + move) for a, move in zip(matrices, moves, strict=True)]

    def __call__(self, example: Example, draws: Draws) -> Example:
        size = example["image"].shape[1:3]
        return resampled(example, affine_places(size, *self.drawn(*size, draws)))


@dataclasses.dataclass(frozen=True)
class Elastic(Geometric):
    """A smooth random deformation (Ronneberger et al. 2015, arXiv 1505.04597, section 3.1): the displacements of a
    coarse grid are drawn from a Gaussian, those between them follow from cubic splines. Bilinear, black outside.

    Attributes:
      std: of the displacements, in pixels.
      grid: points per side, 4 or more.
    """

    batched: ClassVar[bool] = True
    key: ClassVar[str] = "image"
    std: Number = 4.0
    grid: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.std < 0:
            raise ValueError(f"std must not be negative, got {self.std}")
        if self.grid < 4:
            raise ValueError(f"grid must be 4 or more, got {self.grid}")

    def moves(self, height: int, width: int, draws: Draws) -> Float32[np.ndarray, "b h w 2"]:
        """How far from each pixel its value is taken."""
        coarse = (draws.normal((self.grid, self.grid, 2)) * self.std).astype(np.float32)
        rows, columns = spline_matrix(height, self.grid), spline_matrix(width, self.grid)
        return np.stack([rows @ coarse[..., axis] @ columns.T for axis in (0, 1)], -1)

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        size = example["image"].shape[1:3]
        moves, middle = self.moves(*size, draws), np.array(size) / 2
        return [maps.about_centre(size, size, np.eye(2), middle, np.moveaxis(move, -1, 0)) for move in moves]

    def __call__(self, example: Example, draws: Draws) -> Example:
        height, width = example["image"].shape[1:3]
        move = self.moves(height, width, draws)
        place = np.stack(np.mgrid[:height, :width], -1).astype(np.float32)[None] + move
        return resampled(example, place.reshape(len(move), -1, 2))


@functools.lru_cache(maxsize=32)
def spline_matrix(size: int, points: int) -> Float32[np.ndarray, "size points"]:
    """What each of `points` values, evenly spread over `size` pixels, adds to each pixel: cubic splines."""
    from scipy.interpolate import CubicSpline

    splines = CubicSpline(np.linspace(0, max(size - 1, 1), points), np.eye(points))
    return splines(np.arange(size)).astype(np.float32)


def affine_places(space: tuple[int, int], matrix: Float[np.ndarray, "b 2 2"], move: Float[np.ndarray, "b 2"]) -> Places:
    """`matrix @ (y, x) + move` for every pixel (y, x) of `space`, both measured from the centre."""
    middle = np.array([space[0] - 1, space[1] - 1], np.float32) / 2
    grid = np.stack(np.mgrid[: space[0], : space[1]], -1).reshape(-1, 2).astype(np.float32) - middle
    return grid[None] @ matrix.transpose(0, 2, 1) + (move + middle)[:, None]


def resampled(example: Example, place: Places) -> Example:
    """The example with the image, bilinear, and its mask, nearest, at `place`."""
    image = {"image": bilinear(example["image"], place)}
    return example | image | mask_moved(example, lambda mask: nearest_at(mask, place))


def bilinear(image: UInt8[np.ndarray, "b h w c"], place: Places) -> UInt8[np.ndarray, "b h w c"]:
    """The image at `place`; black outside."""
    count, height, width, _ = image.shape
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


def nearest_at(mask: UInt8[np.ndarray, "b h w"], place: Places) -> UInt8[np.ndarray, "b h w"]:
    """The label nearest to `place`; IGNORE outside."""
    count, height, width = mask.shape
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)), constant_values=IGNORE)
    near = np.floor(place + 0.5).astype(np.int32) + 1
    y, x = np.clip(near[..., 0], 0, height + 1), np.clip(near[..., 1], 0, width + 1)
    return padded[np.arange(count)[:, None], y, x].reshape(mask.shape)
