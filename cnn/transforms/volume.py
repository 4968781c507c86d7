"""Where voxels go: `volume` float32 `d h w c`, `mask` uint8 `d h w` (class ids), `spacing` float32 [3] in mm.

A mask goes wherever its volume goes. It never gets a class that it did not have, but for 255 (counts nowhere), which
fills what comes in from outside; a volume is filled there with its own minimum.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from cnn.draws import Draws, Number
from cnn.errors import UserError
from cnn.features import IGNORE
from cnn.transforms import maps
from cnn.transforms.maps import Map
from cnn.transforms.rows import Geometric

Example = dict[str, Any]
Size = int | Sequence[int]
MASKS = ("onehot", "nearest")


def triple(name: str, value: Any, least: Number = 1) -> tuple:
    """A size along d, h, w from one number or three.

    Raises:
      ValueError: another count, or one below `least`.
    """
    three = (value,) * 3 if isinstance(value, int | float) else tuple(value)
    if len(three) != 3 or min(three) < least:
        raise ValueError(f"{name} must be one or three numbers of at least {least:g}, got {value}")
    return three


def resampled(
    volume: Float32[np.ndarray, "d h w c"], factor: Sequence[Number], order: int = 3
) -> Float32[np.ndarray, "d2 h2 w2 c"]:
    """Each axis gets `factor` times as many voxels (rounded), by splines over voxel centres.

    Where it shrinks it is smoothed first: the Gaussian has a standard deviation of (1 / factor - 1) / 2 voxels, so that
    fine detail does not alias.
    """
    from scipy import ndimage

    factor = _whole(volume.shape[:3], factor)
    if all(f == 1 for f in factor):
        return volume
    sigma = [max(0.0, (1 / f - 1) / 2) for f in factor]
    planes = []
    for channel in np.moveaxis(volume, -1, 0):
        smooth = ndimage.gaussian_filter(channel, sigma, mode="nearest") if any(sigma) else channel
        planes.append(ndimage.zoom(smooth, factor, order=order, mode="nearest", grid_mode=True))
    return np.stack(planes, -1)


def resampled_mask(
    mask: UInt8[np.ndarray, "d h w"], factor: Sequence[Number], method: str = "onehot"
) -> UInt8[np.ndarray, "d2 h2 w2"]:
    """Class ids on the grid of `resampled`.

    Args:
      method: 'nearest' takes the nearest voxel's, 'onehot' the class with the most weight in linear interpolation; a
        tie goes to the smaller id.
    """
    from scipy import ndimage

    factor = _whole(mask.shape, factor)
    if all(f == 1 for f in factor):
        return mask
    if method == "nearest":
        return ndimage.zoom(mask, factor, order=0, mode="nearest", grid_mode=True)
    result, most = None, None
    for k in np.unique(mask):
        share = ndimage.zoom((mask == k).astype(np.float32), factor, order=1, mode="nearest", grid_mode=True)
        if result is None:
            result, most = np.full(share.shape, k, np.uint8), share
        else:
            wins = share > most
            result[wins] = k
            most = np.maximum(most, share)
    return result


def _whole(shape: Sequence[int], factor: Sequence[Number]) -> tuple[float, ...]:
    """The factors that give whole numbers of voxels."""
    return tuple(max(1, round(n * float(f))) / n for n, f in zip(shape, factor, strict=True))


@dataclasses.dataclass(frozen=True)
class Spacing(Geometric):
    """Resamples to voxels of `spacing` mm along d, h, w; needs the example's own spacing.

    Attributes:
      order: of the spline for the volume, 0 to 5.
      mask: 'onehot' (linear in each class) or 'nearest'.
    """

    batched: ClassVar[bool] = False
    fixed: ClassVar[bool] = True
    key: ClassVar[str] = "volume"
    spacing: Number | Sequence[Number]
    order: int = 3
    mask: str = "onehot"

    def __post_init__(self):
        super().__post_init__()
        triple("spacing", self.spacing, 1e-3)
        if self.mask not in MASKS or not 0 <= self.order <= 5:
            raise ValueError(f"mask must be one of {', '.join(MASKS)} and order in 0..5")

    def factor(self, example: Example) -> list[float]:
        """By how much the number of voxels along each axis grows, before rounding."""
        if "spacing" not in example:
            raise UserError("transform 'volume_spacing': this data set does not say the spacing of its voxels")
        wanted = np.array(triple("spacing", self.spacing, 1e-3), np.float64)
        return (np.asarray(example["spacing"], np.float64) / wanted).tolist()

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        have = example["volume"].shape[:3]
        after = [round(n * f) for n, f in zip(have, _whole(have, self.factor(example)), strict=True)]
        return [maps.resize(have, after)]

    def __call__(self, example: Example, draws: Draws) -> Example:
        factor, wanted = self.factor(example), np.array(triple("spacing", self.spacing, 1e-3), np.float32)
        found = {"volume": resampled(example["volume"], factor, self.order), "spacing": wanted}
        if "mask" in example:
            found["mask"] = resampled_mask(example["mask"], factor, self.mask)
        return example | found


@dataclasses.dataclass(frozen=True)
class Fit(Geometric):
    """Crops or pads evenly about the middle, to `size` voxels or up to the next multiple of `multiple`."""

    batched: ClassVar[bool] = False
    fixed: ClassVar[bool] = True
    key: ClassVar[str] = "volume"
    size: Size = 0
    multiple: Size = 1

    def __post_init__(self):
        super().__post_init__()
        triple("size", self.size, 0)
        triple("multiple", self.multiple)

    def window(self, have: Sequence[int]) -> tuple[list[int], list[int]]:
        """Where it starts, and its size."""
        multiples = triple("multiple", self.multiple)
        wanted = [
            size or -(-n // m) * m
            for n, size, m in zip(have, triple("size", self.size, 0), multiples, strict=True)
        ]
        return [(n - size) // 2 for n, size in zip(have, wanted, strict=True)], wanted

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        have = example["volume"].shape[:3]
        return [maps.crop(have, *self.window(have))]

    def __call__(self, example: Example, draws: Draws) -> Example:
        return windowed(example, *self.window(example["volume"].shape[:3]))


def windowed(example: Example, start: Sequence[int], size: Sequence[int]) -> Example:
    """The voxels from `start` on, which may lie outside."""
    volume = example["volume"]
    inside = tuple(slice(max(s, 0), max(s + n, 0)) for s, n in zip(start, size, strict=True))
    pad = [
        (max(-s, 0), max(s + n - max(have, s), 0))
        for s, n, have in zip(start, size, volume.shape[:3], strict=True)
    ]
    found = {"volume": volume[inside]}
    if "mask" in example:
        found["mask"] = example["mask"][inside]
    if any(map(any, pad)):
        found["volume"] = np.pad(found["volume"], [*pad, (0, 0)], constant_values=volume.min())
        if "mask" in example:
            found["mask"] = np.pad(found["mask"], pad, constant_values=IGNORE)
    return example | found


@dataclasses.dataclass(frozen=True)
class Patch(Geometric):
    """A random window of `size` voxels, rotated, scaled and bent in one resampling.

    With probability `foreground` its middle is a voxel of a class other than 0: the class drawn evenly among those of
    the example, then the voxel among all of that class. Else every place of the window is equally likely.

    Attributes:
      degrees: rotation by up to so much about each axis.
      scale: 0.2 is by a factor between 1/1.2 and 1.2.
      elastic: standard deviation, in voxels, of a smooth displacement (Simard et al. 2003) known at `knots` places
        along each axis and interpolated by cubic splines between them.
    """

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "volume"
    size: Size
    foreground: Number = 0.33
    degrees: Number = 0.0
    scale: Number = 0.0
    elastic: Number = 0.0
    knots: int = 4

    def __post_init__(self):
        super().__post_init__()
        triple("size", self.size)
        if not 0 <= self.foreground <= 1 or self.knots < 2:
            raise ValueError(f"foreground must be in [0, 1] and knots at least 2, got {self.foreground}, {self.knots}")
        for name in ("degrees", "scale", "elastic"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def start(self, example: Example, draws: Draws) -> Int64[np.ndarray, " 3"]:
        """Where the window begins."""
        have, size = np.array(example["volume"].shape[:3]), np.array(triple("size", self.size))
        free = draws.uniform(shape=(3,))[0]
        pick, which, where = draws.uniform(shape=(3,))[0]
        start = np.where(have > size, np.floor(free * (have - size + 1)), (have - size) // 2).astype(np.int64)
        if "mask" in example and pick < self.foreground:
            middle = _foreground(example["mask"], which, where)
            if middle is not None:  # the window stays inside where it can
                room = np.maximum(have - size, 0)
                start = np.where(have > size, np.clip(middle - size // 2, 0, room), start)
        return start

    @property
    def warps(self) -> bool:
        """Whether it does more than to cut."""
        return bool(self.degrees or self.scale or self.elastic)

    def warp(
        self, example: Example, draws: Draws
    ) -> tuple[Float32[np.ndarray, "3 3"], Float32[np.ndarray, "3 d h w"] | None]:
        """The matrix from voxels of the window, about its middle, to voxels of the input; what is added to them."""
        angles = np.radians(draws.uniform(-self.degrees, self.degrees, (3,))[0])
        grow = np.exp(draws.uniform(-1, 1) * np.log1p(self.scale))[0]
        mm = np.asarray(example.get("spacing", np.ones(3)), np.float64)  # angles are angles in space, not in voxels
        matrix = (rotation(angles) * mm / mm[:, None] / grow).astype(np.float32)
        if not self.elastic:
            return matrix, None
        bends = draws.normal((3, *(self.knots,) * 3))[0] * self.elastic
        return matrix, np.stack([_smooth(bend, triple("size", self.size)) for bend in bends])

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        have, size = example["volume"].shape[:3], triple("size", self.size)
        start = self.start(example, draws)
        if not self.warps:
            return [maps.crop(have, start, size)]
        matrix, bends = self.warp(example, draws)
        return [maps.about_centre(have, size, matrix, start + np.array(size) / 2, bends)]

    def __call__(self, example: Example, draws: Draws) -> Example:
        size, start = triple("size", self.size), self.start(example, draws)
        if not self.warps:
            return windowed(example, start.tolist(), size)
        matrix, bends = self.warp(example, draws)
        axes = [np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2) for n in size]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"))
        middle = start + (np.array(size) - 1) / 2
        place = np.einsum("ij,jdhw->idhw", matrix, grid) + middle.astype(np.float32)[:, None, None, None]
        if bends is not None:
            place += bends
        return example | sampled(example, place)


def rotation(angles: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """Rotations about d, then h, then w, in radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def _smooth(knots: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    from scipy import ndimage

    factor = [n / k for n, k in zip(size, knots.shape, strict=True)]
    return ndimage.zoom(knots.astype(np.float32), factor, order=3, mode="nearest", grid_mode=True)


def sampled(example: Example, place: Float[np.ndarray, "3 d h w"]) -> Example:
    """{volume, mask} at `place` (voxels): linear for the volume, the nearest voxel for the mask."""
    from scipy import ndimage

    volume = example["volume"]
    low = np.maximum(np.floor(place.reshape(3, -1).min(1)).astype(int) - 1, 0)
    high = np.ceil(place.reshape(3, -1).max(1)).astype(int) + 2
    inside = tuple(slice(int(a), int(max(b, a + 1))) for a, b in zip(low, high, strict=True))
    near = place - low[:, None, None, None].astype(np.float32)
    planes = [
        ndimage.map_coordinates(plane, near, order=1, mode="constant", cval=float(volume.min()))
        for plane in np.moveaxis(volume[inside], -1, 0)
    ]
    found = {"volume": np.stack(planes, -1)}
    if "mask" in example:
        shape = np.array(volume.shape[:3])[:, None, None, None]
        nearest = np.rint(place).astype(int)
        outside = ((nearest < 0) | (nearest >= shape)).any(0)
        d, h, w = np.clip(nearest, 0, shape - 1)
        found["mask"] = np.where(outside, np.uint8(IGNORE), example["mask"][d, h, w])
    return found


def _foreground(mask: UInt8[np.ndarray, "d h w"], which: float, where: float) -> np.ndarray | None:
    """The place of a voxel of some class but 0 and 255, None where there is none."""
    counts = np.bincount(mask.reshape(-1), minlength=256)
    classes = [k for k in np.flatnonzero(counts) if k not in (0, IGNORE)]
    if not classes:
        return None
    k = classes[int(which * len(classes))]
    flat = np.flatnonzero(mask.reshape(-1) == k)
    return np.array(np.unravel_index(flat[int(where * len(flat))], mask.shape))


@dataclasses.dataclass(frozen=True)
class Mirror(Geometric):
    """Mirrors along each of `axes` with probability one half, independently."""

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "volume"
    axes: str = "dhw"

    def __post_init__(self):
        super().__post_init__()
        if not self.axes or set(self.axes) - set("dhw"):
            raise ValueError(f"axes must be some of 'd', 'h', 'w', got '{self.axes}'")

    def mirrored(self, draws: Draws) -> list[int]:
        """The axes that are mirrored."""
        chosen = draws.bernoulli(0.5, (3,))[0]
        return [i for i, axis in enumerate("dhw") if chosen[i] and axis in self.axes]

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        return [maps.mirror(example["volume"].shape[:3], self.mirrored(draws))]

    def __call__(self, example: Example, draws: Draws) -> Example:
        axes = self.mirrored(draws)
        return example | {key: np.flip(example[key], axes) for key in ("volume", "mask") if key in example}
