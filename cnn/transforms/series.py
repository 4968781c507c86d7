"""Transforms of series: `series` float32 `t c` (stacked `b t c`). Shift takes images too, Scale and Noise volumes."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int64

from cnn.draws import Draws, Number
from cnn.errors import UserError
from cnn.transforms.geometry import check_translation, translated_example, translations
from cnn.transforms.maps import Map, about_centre
from cnn.transforms.options import check_range
from cnn.transforms.rows import Geometric

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shift(Geometric):
    """Moves by up to `size` pixels (both axes) or time steps, each amount equally likely.

    Args:
      mode: what comes in at the border: 'zero', 'edge', 'reflect' or 'wrap'.
    """

    batched: ClassVar[bool] = True
    key: ClassVar[tuple[str, ...]] = ("series", "image")
    size: int = 1
    mode: str = "zero"

    def __post_init__(self):
        super().__post_init__()
        check_translation(self.size, self.mode)

    @property
    def unlabelled(self) -> bool:
        """Whether what comes in has no class."""
        return self.mode == "zero"

    def drawn(self, example: Example, draws: Draws) -> tuple[str, Int64[np.ndarray, "b r"]]:
        """What moves, and where each crop begins in what is padded by `size`."""
        key = "series" if "series" in example else "image"
        return key, draws.integers(0, 2 * self.size + 1, (example[key].ndim - 2,))

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        key, offsets = self.drawn(example, draws)
        return translations(example[key].shape[1:-1], offsets, self.size)

    def __call__(self, example: Example, draws: Draws) -> Example:
        return translated_example(example, *self.drawn(example, draws), self.size, self.mode)


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
class Resample(Geometric):
    """Brings a series to `steps` time steps by a cubic spline; see `resampled`.

    Raises:
      UserError: there is a label for each step, which no spline can move.
    """

    batched: ClassVar[bool] = False
    fixed: ClassVar[bool] = True
    key: ClassVar[str] = "series"
    steps: int

    def __post_init__(self):
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        have = len(example["series"])
        scale = max(have - 1, 1) / max(self.steps - 1, 1)  # the first and the last step stay what they are
        return [about_centre((have,), (self.steps,), np.array([[scale]]), np.array([have / 2]))]

    def __call__(self, example: Example, draws: Draws) -> Example:
        if "labels" in example:
            raise UserError("transform 'resample' moves the steps of a series but not their labels")
        series = example["series"]
        return example | {"series": resampled(series, self.steps).astype(series.dtype)}
