"""Transforms of series: `series` float32 `t c` (stacked `b t c`). Shift takes images too, Scale and Noise volumes."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from cnn.draws import Draws, Number
from cnn.transforms.geometry import check_translation, translated_example
from cnn.transforms.image import check_range

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shift:
    """Moves by up to `size` pixels (both axes) or time steps, each amount equally likely.

    Args:
      mode: what comes in at the border: 'zero', 'edge', 'reflect' or 'wrap'.
    """

    batched: ClassVar[bool] = True
    key: ClassVar[tuple[str, ...]] = ("series", "image")
    size: int = 1
    mode: str = "zero"

    def __post_init__(self):
        check_translation(self.size, self.mode)

    def __call__(self, example: Example, draws: Draws) -> Example:
        key = "series" if "series" in example else "image"
        x = example[key]
        offsets = draws.integers(0, 2 * self.size + 1, (x.ndim - 2,))
        return translated_example(example, key, offsets, self.size, self.mode)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Multiplies a series or a volume by one random factor in `factor` = (low, high)."""

    batched: ClassVar[bool] = True
    key: ClassVar[tuple[str, ...]] = ("series", "volume")
    factor: tuple[Number, Number] = (0.9, 1.1)

    def __post_init__(self):
        check_range("factor", self.factor, 0.0, float("inf"))

    def __call__(self, example: Example, draws: Draws) -> Example:
        key = "series" if "series" in example else "volume"
        x = example[key]
        factor = draws.uniform(*self.factor).astype(np.float32)
        return example | {key: x * factor.reshape(-1, *(1,) * (x.ndim - 1))}


@dataclasses.dataclass(frozen=True)
class Noise:
    """Adds independent Gaussian noise of standard deviation `std` to every value of a series or a volume."""

    batched: ClassVar[bool] = True
    key: ClassVar[tuple[str, ...]] = ("series", "volume")
    std: Number = 0.02

    def __post_init__(self):
        if self.std < 0:
            raise ValueError(f"std must not be negative, got {self.std}")

    def __call__(self, example: Example, draws: Draws) -> Example:
        key = "series" if "series" in example else "volume"
        x = example[key]
        noise = draws.normal(x.shape[1:]) * self.std
        return example | {key: x + noise.astype(np.float32)}


def filled(series: Float[np.ndarray, "t c"]) -> Float[np.ndarray, "t c"]:
    """Gaps (what is not finite) filled by linear interpolation per channel; a channel without any value becomes 0."""
    result, steps = series.copy(), np.arange(len(series))
    for channel in result.T:
        known = np.isfinite(channel)
        channel[~known] = np.interp(steps[~known], steps[known], channel[known]) if known.any() else 0
    return result


def resampled(series: Float[np.ndarray, "t c"], steps: int) -> Float[np.ndarray, "{steps} c"]:
    """`steps` values on a cubic spline through all points, from the first to the last."""
    from scipy.interpolate import make_interp_spline

    n = len(series)
    if n == steps:
        return series
    if n == 1:
        return np.repeat(series, steps, axis=0)
    return make_interp_spline(np.arange(n), series, k=min(3, n - 1))(np.linspace(0, n - 1, steps))


@dataclasses.dataclass(frozen=True)
class FillGaps:
    """Fills gaps (what is not finite) by linear interpolation along time; see `filled`."""

    batched: ClassVar[bool] = False
    fixed: ClassVar[bool] = True
    key: ClassVar[str] = "series"

    def __call__(self, example: Example, draws: Draws) -> Example:
        return example | {"series": filled(example["series"])}


@dataclasses.dataclass(frozen=True)
class Resample:
    """Brings a series to `steps` time steps by a cubic spline; see `resampled`."""

    batched: ClassVar[bool] = False
    fixed: ClassVar[bool] = True
    key: ClassVar[str] = "series"
    steps: int

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def __call__(self, example: Example, draws: Draws) -> Example:
        series = example["series"]
        return example | {"series": resampled(series, self.steps).astype(series.dtype)}
