"""Targets that cannot be, refused before the first step: class ids that no class has, numbers that are not finite.

A network would train on them to the end: a class id outside of the classes has a one-hot of zeros, and 255 in a mask
counts nowhere. Where all targets are in memory they are looked at when a split is opened; records are looked at one by
one as they are read; folders look at their files when they are opened.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnn.data.sources import Example, Source, targets
from cnn.errors import UserError
from cnn.features import IGNORE, DatasetInfo

CLASS_IDS = ("label", "labels", "mask")  # targets that hold them
_CHUNK = 1 << 24  # numbers that are looked at together
_ADVICE = "`cnn data check` lists all such examples"


def wrong_ids(values: np.ndarray, key: str, classes: int) -> np.ndarray:
    """Where values are no class ids: [bool] of the same shape. IGNORE is one in masks."""
    wrong = (values < 0) | (values >= classes)
    return np.asarray(wrong & (values != IGNORE) if key == "mask" else wrong)


def check_example(example: Mapping[str, Any], info: DatasetInfo, where: str) -> None:
    """Refuses an example with a class id that no class has.

    Raises:
      UserError: says which.
    """
    for key in CLASS_IDS:
        if info.class_names and key in info.targets and key in example:
            values = np.asarray(example[key])
            wrong = wrong_ids(values, key, info.num_classes)
            if wrong.any():
                raise UserError(f"{where}: {key} {values[wrong].flat[0]}, but {_known(info)}; {_ADVICE}")


class CheckedSource:
    """Examples of another source, each refused where its class ids cannot be."""

    def __init__(self, source: Source, info: DatasetInfo):
        self.source, self.info = source, info
        self.labels = getattr(source, "labels", None)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Example:
        example = self.source[i]
        check_example(example, self.info, self.describe(i))
        return example

    def get(self, indices: Sequence[int]) -> list[Example]:
        examples = self.source.get(indices)
        for i, example in zip(indices, examples, strict=True):
            check_example(example, self.info, self.describe(i))
        return examples

    def describe(self, i: int) -> str:
        return self.source.describe(i)


def check_targets(source: Source, info: DatasetInfo, split: str) -> None:
    """Refuses a split whose targets are in memory and cannot be; others are not read.

    Raises:
      UserError: names the first example and says what is wrong.
    """
    for key, feature in info.targets.items():
        values = None if feature.pad is not None else _in_memory(source, key)
        if values is None or not len(values):
            continue
        only_ignored, rows = key == "mask", max(1, _CHUNK // max(values[0].size, 1))
        for start in range(0, len(values), rows):
            part = values[start : start + rows]
            flat = part.reshape(len(part), -1)
            if flat.dtype.kind == "f":
                wrong, what = ~np.isfinite(flat), "that is not finite"
            elif key in CLASS_IDS and info.class_names:
                wrong, what = wrong_ids(flat, key, info.num_classes), f"but {_known(info)}"
            else:
                break
            if wrong.any():
                row, place = np.argwhere(wrong)[0]
                raise UserError(
                    f"{source.describe(start + int(row))}: {key} {flat[row, place]}, {what}; {_ADVICE}"
                )
            only_ignored = only_ignored and bool(((flat == 0) | (flat == IGNORE)).all())
        if only_ignored and (values == IGNORE).any():
            raise UserError(
                f"{info.name} '{split}': masks hold nothing but 0 and 255, and 255 is a pixel without a class; "
                "where it is meant as the foreground, write 1"
            )


def _known(info: DatasetInfo) -> str:
    return f"there are {info.num_classes} classes (0 to {info.num_classes - 1})"


def _in_memory(source: Source, key: str) -> np.ndarray | None:
    try:
        return targets(source, key)
    except (KeyError, AttributeError):  # a target that this source does not stack
        return None
