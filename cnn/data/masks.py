"""What can be wrong with a mask beside its input."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, UInt8

from cnn.data.sources import Example
from cnn.features import IGNORE, DatasetInfo


def mistakes(example: Example, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    """(kind, details) of each: masks_of_another_size, bad_labels, empty_masks."""
    mask, space = np.asarray(example["mask"]), np.shape(example[info.input_key])[:-1]
    if mask.shape != space:
        yield "masks_of_another_size", f"{mask.shape}, its {info.input_key} has {space}"
    counts = np.bincount(mask.reshape(-1), minlength=256)
    unknown = [int(k) for k in np.flatnonzero(counts) if k >= info.num_classes and k != IGNORE]
    if unknown:
        voxels = int(counts[unknown].sum())
        yield "bad_labels", f"{', '.join(map(str, unknown[:5]))} in {voxels} places"
    elif not counts[1 : info.num_classes].any():
        yield "empty_masks", info.class_names[0] if counts[0] else "all ignored"


def class_counts(mask: UInt8[np.ndarray, "*space"], classes: int) -> Int64[np.ndarray, " k"]:
    """Places of each class; those that are ignored count nowhere."""
    return np.bincount(mask.reshape(-1), minlength=256)[:classes]
