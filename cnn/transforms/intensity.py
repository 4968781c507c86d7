"""Intensities of volumes: `volume` float32 `d h w c`."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from cnn.draws import Draws, Number
from cnn.transforms.options import check_probability, check_range

Example = dict[str, Any]
MODALITIES = ("ct", "mr", "microscopy")


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
