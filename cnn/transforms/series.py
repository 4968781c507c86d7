"""Transforms of series: `series` float32 `t c` (stacked `b t c`). Shift takes images too, Scale and Noise volumes."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64

from cnn.draws import Draws, Number
from cnn.transforms.geometry import check_translation, translated_example, translations
from cnn.transforms.maps import Map
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
