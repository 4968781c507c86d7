"""Carrying masks: what moves the pixels of `image` moves those of `mask` (uint8 `h w`, stacked `b h w`) with them, and
what moves the steps of `series` the `labels` of its steps (int32 `t`, stacked `b t`).

Only whole labels are copied (the nearest one), none is ever mixed; what comes in from outside is IGNORE.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

Example = dict[str, Any]
CARRIED = {"image": "mask", "volume": "mask", "series": "labels"}  # what has a class for each pixel, voxel or step


def moved(example: Example, move: Callable[[np.ndarray], np.ndarray]) -> Example:
    """The example with `move` done to the image and, where there is one, to its mask.

    Args:
      move: copies whole pixels along the spatial axes, whether or not channels follow.
    """
    return example | {key: move(example[key]) for key in ("image", "mask") if key in example}


def mask_moved(example: Example, move: Callable[[np.ndarray], np.ndarray], of: str = "image") -> Example:
    """{'mask': move(mask)}, or {} without one: for transforms that treat the two differently."""
    return {key: move(example[key]) for key in (CARRIED[of],) if key in example}


def nearest(mask: UInt8[np.ndarray, "h w"], height: int, width: int) -> UInt8[np.ndarray, "h2 w2"]:
    """The mask at another size: the label at the centre of each new pixel."""
    rows, columns = (
        (2 * np.arange(size) + 1) * have // (2 * size) for size, have in zip((height, width), mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
