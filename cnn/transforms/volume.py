"""Transforms of volumes: `volume` float32 `d h w c`, `mask` uint8 `d h w` (class ids), `spacing` float32 [3] in mm.

A mask goes wherever its volume goes. It never gets a class that it did not have, but for 255 (counts nowhere), which
fills what comes in from outside; a volume is filled there with its own minimum.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, UInt8

from cnn.draws import Draws, Number
from cnn.errors import UserError
from cnn.features import IGNORE
from cnn.transforms.image import check_probability, check_range

Example = dict[str, Any]
Size = int | Sequence[int]
MODALITIES = ("ct", "mr", "microscopy")
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
class Spacing:
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
        triple("spacing", self.spacing, 1e-3)
        if self.mask not in MASKS or not 0 <= self.order <= 5:
            raise ValueError(f"mask must be one of {', '.join(MASKS)} and order in 0..5")

    def __call__(self, example: Example, draws: Draws) -> Example:
        if "spacing" not in example:
            raise UserError("transform 'volume_spacing': this data set does not say the spacing of its voxels")
        wanted = np.array(triple("spacing", self.spacing, 1e-3), np.float64)
        factor = (np.asarray(example["spacing"], np.float64) / wanted).tolist()
        found = {"volume": resampled(example["volume"], factor, self.order), "spacing": wanted.astype(np.float32)}
        if "mask" in example:
            found["mask"] = resampled_mask(example["mask"], factor, self.mask)
        return example | found


@dataclasses.dataclass(frozen=True)
class Intensity:
    """Brings intensities to about zero mean and unit deviation, by what the numbers of a modality mean.

    'ct': Hounsfield units are absolute: clip to `clip`, then (x - mean) / std, all three of the foreground of the
    training data (Isensee et al. 2021, nnU-Net; `cnn data plan` finds them). 'mr': units are arbitrary: each channel by
    the mean and deviation of its own voxels that are not zero. 'microscopy': each channel's `percentiles` go to 0 and 1
    (Weigert et al. 2020, StarDist 3-D).
    """

    batched: ClassVar[bool] = False
    fixed: ClassVar[bool] = True
    key: ClassVar[str] = "volume"
    modality: str = "mr"
    clip: tuple[Number, Number] = (-1024, 3071)
    mean: Number = 0.0
    std: Number = 1.0
    percentiles: tuple[Number, Number] = (1.0, 99.8)

    def __post_init__(self):
        if self.modality not in MODALITIES:
            raise ValueError(f"modality must be one of {', '.join(MODALITIES)}, got '{self.modality}'")
        check_range("percentiles", self.percentiles, -1e-9, 100.0)
        if self.std <= 0 or self.clip[0] >= self.clip[1]:
            raise ValueError(f"std must be above 0 and clip increase, got {self.std} and {self.clip}")

    def __call__(self, example: Example, draws: Draws) -> Example:
        volume = example["volume"]
        if self.modality == "ct":
            return example | {"volume": (np.clip(volume, *self.clip) - np.float32(self.mean)) / np.float32(self.std)}
        result = np.empty_like(volume)
        for channel in range(volume.shape[-1]):
            x = volume[..., channel]
            if self.modality == "mr":
                seen = x[x != 0].astype(np.float64)
                low, wide = (float(seen.mean()), float(seen.std())) if len(seen) else (0.0, 1.0)
            else:
                low, high = np.percentile(x, self.percentiles)
                wide = float(high - low)
            result[..., channel] = (x - np.float32(low)) / np.float32(wide or 1.0)
        return example | {"volume": result}


@dataclasses.dataclass(frozen=True)
class Fit:
    """Crops or pads evenly about the middle, to `size` voxels or up to the next multiple of `multiple`."""

    batched: ClassVar[bool] = False
    fixed: ClassVar[bool] = True
    key: ClassVar[str] = "volume"
    size: Size = 0
    multiple: Size = 1

    def __post_init__(self):
        triple("size", self.size, 0)
        triple("multiple", self.multiple)

    def __call__(self, example: Example, draws: Draws) -> Example:
        have = example["volume"].shape[:3]
        multiples = triple("multiple", self.multiple)
        wanted = [
            size or -(-n // m) * m
            for n, size, m in zip(have, triple("size", self.size, 0), multiples, strict=True)
        ]
        return windowed(example, [(n - size) // 2 for n, size in zip(have, wanted, strict=True)], wanted)


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
class Patch:
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
        triple("size", self.size)
        if not 0 <= self.foreground <= 1 or self.knots < 2:
            raise ValueError(f"foreground must be in [0, 1] and knots at least 2, got {self.foreground}, {self.knots}")
        for name in ("degrees", "scale", "elastic"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def __call__(self, example: Example, draws: Draws) -> Example:
        have, size = np.array(example["volume"].shape[:3]), np.array(triple("size", self.size))
        free = draws.uniform(shape=(3,))[0]
        pick, which, where = draws.uniform(shape=(3,))[0]
        start = np.where(have > size, np.floor(free * (have - size + 1)), (have - size) // 2).astype(int)
        if "mask" in example and pick < self.foreground:
            middle = _foreground(example["mask"], which, where)
            if middle is not None:  # the window stays inside where it can
                room = np.maximum(have - size, 0)
                start = np.where(have > size, np.clip(middle - size // 2, 0, room), start)
        if not (self.degrees or self.scale or self.elastic):
            return windowed(example, start.tolist(), size.tolist())
        return self._warped(example, start + (size - 1) / 2, size, draws)

    def _warped(self, example: Example, middle: np.ndarray, size: np.ndarray, draws: Draws) -> Example:
        angles = np.radians(draws.uniform(-self.degrees, self.degrees, (3,))[0])
        grow = np.exp(draws.uniform(-1, 1) * np.log1p(self.scale))[0]
        axes = [np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2) for n in size]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"))
        mm = np.asarray(example.get("spacing", np.ones(3)), np.float64)  # angles are angles in space, not in voxels
        matrix = (rotation(angles) * mm / mm[:, None] / grow).astype(np.float32)
        place = np.einsum("ij,jdhw->idhw", matrix, grid) + middle.astype(np.float32)[:, None, None, None]
        if self.elastic:
            bends = draws.normal((3, *(self.knots,) * 3))[0] * self.elastic
            place += np.stack([_smooth(bend, tuple(size.tolist())) for bend in bends])
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
class Mirror:
    """Mirrors along each of `axes` with probability one half, independently."""

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "volume"
    axes: str = "dhw"

    def __post_init__(self):
        if not self.axes or set(self.axes) - set("dhw"):
            raise ValueError(f"axes must be some of 'd', 'h', 'w', got '{self.axes}'")

    def __call__(self, example: Example, draws: Draws) -> Example:
        chosen = draws.bernoulli(0.5, (3,))[0]
        axes = [i for i, axis in enumerate("dhw") if chosen[i] and axis in self.axes]
        return example | {key: np.flip(example[key], axes) for key in ("volume", "mask") if key in example}


@dataclasses.dataclass(frozen=True)
class Gamma:
    """With probability p, x ** gamma within the range of each channel; gamma is log-uniform in `gamma`."""

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "volume"
    gamma: tuple[Number, Number] = (0.7, 1.5)
    p: Number = 0.3

    def __post_init__(self):
        check_range("gamma", self.gamma, 1e-3, float("inf"))
        check_probability(self.p)

    def __call__(self, example: Example, draws: Draws) -> Example:
        use = draws.bernoulli(self.p)[0]
        power = np.float32(np.exp(draws.uniform(*np.log(self.gamma))[0]))
        if not use:
            return example
        x = example["volume"]
        low, high = (edge(x, axis=(0, 1, 2), keepdims=True) for edge in (np.min, np.max))
        wide = np.maximum(high - low, np.float32(1e-8))
        return example | {"volume": ((x - low) / wide) ** power * wide + low}
