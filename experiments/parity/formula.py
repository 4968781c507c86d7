"""Weights and a picture made from nothing but names, so that two frameworks can be compared without storing any.

Each value is a hash of the tensor's name and the value's index, scaled so that signals keep their size through
a deep network. Only 64-bit integer arithmetic and one division: the same bits on every machine.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np


def uniform(name: str, count: int) -> np.ndarray:
    """`count` float64 in [-1, 1): splitmix64 of the index, started at the CRC-32 of `name`."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(zlib.crc32(name.encode()) << 20)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0


def tensor(name: str, shape: Sequence[int], damp: float = 1.0) -> np.ndarray:
    """The float32 tensor of PyTorch's name and layout: kernels [o, i, ...] of gain sqrt 2, dense ones of gain 1.

    Vectors: `running_var` in [0.5, 1.5), biases and running means in [-0.1, 0.1), all others, which are the scales
    of normalisations (and `gain`, NFNet's), in [0.9, 1.1) times `damp`.
    """
    values = uniform(name, math.prod(shape)).reshape(tuple(shape))
    leaf = name.rpartition(".")[2]
    if leaf == "running_var":
        values = 1 + values / 2
    elif leaf in ("bias", "running_mean"):
        values = values / 10
    elif leaf == "gain" or sum(size > 1 for size in shape) < 2 and len(shape) < 3:
        values = damp * (1 + values / 10)
    else:
        gain = 6 if len(shape) > 2 else 3
        values = values * math.sqrt(gain / max(math.prod(shape[1:]), 1))
    return values.astype(np.float32)


def picture(size: Sequence[int]) -> np.ndarray:
    """A float32 batch of one, [1, *size], channels last, values in [-1, 1)."""
    return uniform("picture", math.prod(size)).reshape(1, *size).astype(np.float32)
