"""What can be wrong with a mask beside its input, and what the values of a set of masks stand for."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from cnn.data.sources import Example
from cnn.errors import UserError, printable
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


def labels_of(mask: UInt8[np.ndarray, "*space"]) -> list[int]:
    """The values that occur."""
    return np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256)).tolist()


def white_is_1(where: str, found: Mapping[str, set[int]], named: int | None) -> tuple[bool, str]:
    """(whether 255 stands for class 1 and not for "no class", the line that says so or '').

    Masks that were painted black and white hold 0 and 255. They are read as classes 0 and 1 where no mask of the set
    holds 255 beside other classes, also where some of them were saved as 0 and 1.

    Args:
      where: names the data set.
      found: the values in each mask, by its file.
      named: how many classes the user named; None where they are counted.

    Raises:
      UserError: the masks do not agree on what 255 is.
    """
    white = [file for file, labels in found.items() if IGNORE in labels and labels <= {0, IGNORE}]
    others = {file: labels - {0} for file, labels in found.items() if labels - {0, IGNORE}}
    if not white:
        return False, ""
    mixed = next((file for file, labels in others.items() if IGNORE in labels or labels - {1}), None)
    if mixed is None and (named is None or named == 2):
        if not others:
            return True, f"{where}: masks hold only 0 and 255, which is read as class 1"
        counts = f"{len(white)} masks hold 0 and 255, {len(others)} hold 0 and 1"
        return True, f"{where}: {counts}: both 1 and 255 are read as class 1"
    shown = printable(white[0])
    if mixed is None:
        raise UserError(
            f"{where}: {len(white)} masks hold nothing but 0 and 255 (such as {shown}), but {named} classes are named; "
            "save class ids in place of 255"
        )
    values = ", ".join(map(str, sorted(found[mixed])[:6]))
    if len(white) > len(others):
        raise UserError(
            f"{where}: {len(white)} masks hold nothing but 0 and 255 (such as {shown}), others class ids "
            f"({printable(mixed)}: {values}); save all of them as class ids, 255 only where a pixel has no class"
        )
    return False, f"{where}: in {len(white)} masks with nothing but 0 and 255 (such as {shown}) 255 is read as no class"


def whitened(mask: UInt8[np.ndarray, "*space"]) -> UInt8[np.ndarray, "*space"]:
    """255 as class 1."""
    return np.where(mask == IGNORE, np.uint8(1), mask)


def unnamed(labels: Any, classes: int) -> list[int]:
    """Those of the labels that no class has."""
    return sorted(int(label) for label in set(labels) - {IGNORE} if label >= classes)
