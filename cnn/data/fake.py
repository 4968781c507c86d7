"""Random examples of the right shapes and types, for smoke runs and speed tests: a pattern per class plus noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cnn.data.sources import ArraySource, ListSource, Source
from cnn.draws import Draws
from cnn.features import DatasetInfo, Feature

TRAIN, OTHER = 64, 40  # examples of the training split, and of every other one
KINDS = 10  # patterns, where there is no class per example
ROWS = 12  # largest number of rows of a ragged feature
# Sizes of open axes, by the axes of the feature: no two alike, so that mixed-up axes show.
FREE = {"h w c": (128, 160, 3), "d h w c": (24, 32, 40, 1), "t c": (128, 1)}


def sizes(splits: Sequence[str]) -> dict[str, int]:
    """Split sizes of fake data; 'validation' and 'test' always exist, so that any config runs."""
    names = dict.fromkeys([*splits, "train", "validation", "test"])
    return {name: TRAIN if name == "train" else OTHER for name in names}


def source(info: DatasetInfo, split: str) -> Source:
    """A split of fake examples; the first input tells the class, so that a loss can fall."""
    size = TRAIN if split == "train" else OTHER
    kinds = max(info.num_classes, 1) if info.targets[info.target_key].shape == () else KINDS
    labels = (np.arange(size) % kinds).astype(np.int32)
    salt = sum(map(ord, split))
    unit = _unit(info.inputs[info.input_key], labels, kinds, salt)  # in [0, 1)
    arrays: dict[str, Any] = {}
    for number, (name, feature) in enumerate(info.inputs.items()):
        if not set(feature.axes.split()) & set("dhwtn"):
            arrays[name] = np.ones((size, *feature.sized(1)), feature.dtype)  # facts such as the spacing of voxels
        else:
            arrays[name] = _typed(unit if number == 0 else _unit(feature, labels, kinds, salt + number), feature, info)
    for name, feature in info.targets.items():
        arrays[name] = _target(feature, labels, unit, info)
    title = f"fake {info.name} '{split}'"
    if not info.ragged:
        return ArraySource(arrays, title)
    rows = 1 + Draws(3 + salt, np.arange(size)).integers(0, ROWS)
    cut = {name: min(ROWS, feature.pad or ROWS) for name, feature in info.ragged.items()}
    examples = [
        {name: value[i][: min(rows[i], cut[name])] if name in cut else value[i] for name, value in arrays.items()}
        for i in range(size)
    ]
    return ListSource(examples, title)


def _shape(feature: Feature) -> tuple[int, ...]:
    free = FREE.get(feature.axes, (ROWS,) * len(feature.shape))
    return tuple(have or size for have, size in zip(feature.shape, free, strict=True))


def _unit(feature: Feature, labels: Int[np.ndarray, " b"], kinds: int, salt: int) -> Float[np.ndarray, "b ..."]:
    shape, size = _shape(feature), len(labels)
    used = min(size, kinds)
    pattern = Draws(0, np.arange(used)).uniform(0.0, 1.0, shape)[labels % used]
    return 0.7 * pattern + 0.3 * Draws(1 + salt, np.arange(size)).uniform(0.0, 1.0, shape)


def _typed(unit: Float[np.ndarray, "b ..."], feature: Feature, info: DatasetInfo) -> np.ndarray:
    if feature.dtype == "uint8":
        return (unit * 255).astype(np.uint8)
    if np.issubdtype(np.dtype(feature.dtype), np.integer):
        return (unit * max(len(info.vocabulary), 2)).astype(feature.dtype)
    return (4 * unit - 2).astype(feature.dtype)


def _target(
    feature: Feature, labels: Int[np.ndarray, " b"], unit: Float[np.ndarray, "b ..."], info: DatasetInfo
) -> np.ndarray:
    if feature.shape == ():
        return labels.astype(feature.dtype)
    if feature.rank:  # a class per pixel; the values are below 1
        return (unit.mean(-1) * info.num_classes).astype(feature.dtype)
    if np.issubdtype(np.dtype(feature.dtype), np.integer):
        classes = info.num_classes or max(len(info.vocabulary), 2)
        return Draws(2, labels).integers(0, classes, _shape(feature)).astype(feature.dtype)
    return Draws(2, labels).uniform(0.0, 1.0, _shape(feature)).astype(feature.dtype)
