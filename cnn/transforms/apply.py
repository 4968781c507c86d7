"""Applying transforms to examples, one by one or stacked, stacking what comes out, and tracing where pixels went."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from cnn.draws import Draws
from cnn.errors import UserError
from cnn.features import LENGTH, Feature
from cnn.transforms import KEYS, Transform, maps
from cnn.transforms.maps import Map
from cnn.transforms.rows import Geometric, has_rows, rows_moved

Example = dict[str, Any]
RANKS = {key: len(axes.split()) - 1 for key, (axes, _) in KEYS.items()}  # axes of each that maps move


def transform_examples(
    examples: Example | list[Example],
    transforms: Sequence[Transform],
    draws: Draws,
    ragged: Mapping[str, Feature] = MappingProxyType({}),
    describe: Callable[[int], str] = "example {}".format,
) -> Example:
    """Applies transforms to stacked examples or to a list of them, pads what is ragged, and stacks the result.

    The result does not depend on which of the two forms comes in, or on the batch that an example is in.

    Args:
      describe: names the i-th example, for messages.

    Raises:
      UserError: the results are of different shapes, or what is ragged has more rows than its `pad`.
    """
    found = transformed(examples, transforms, draws, bool(ragged))
    if isinstance(found, dict):
        return found
    return stack([padded(example, ragged, describe(i)) for i, example in enumerate(found)] if ragged else found)


def transformed(
    examples: Example | list[Example], transforms: Sequence[Transform], draws: Draws, apart: bool = False
) -> Example | list[Example]:
    """`transform_examples` without padding.

    Args:
      apart: never stack a list. So it is with boxes and points, whose number may become another.

    Returns:
      Stacked examples, or a list where they were not stacked yet.
    """
    rows = has_rows(examples[0] if isinstance(examples, list) else examples)
    apart = apart or rows
    if rows and isinstance(examples, dict):
        examples = unstack(examples)
    for transform, stream in streams(transforms):
        own = draws.stream(stream)
        if transform.batched and not apart and isinstance(examples, list) and _same_shapes(examples):
            examples = stack(examples)
        if isinstance(examples, dict):
            if transform.batched:
                examples = transform(examples, own)
                continue
            examples = unstack(examples)
        examples = [_apply(transform, example, own, i) for i, example in enumerate(examples)]
    return examples


def traced(example: Example, transforms: Sequence[Transform], draws: Draws | None = None) -> tuple[Example, Map]:
    """One example after the transforms, and the composed map from its input, the first of RANKS that it holds.

    Without such an input (a table, tokens) the map has no axes.

    Args:
      draws: of one position; None for transforms that draw nothing, those of evaluation.

    Raises:
      UserError: as the transforms do.
    """
    key = _main(example)
    draws = draws or Draws(0, np.zeros(1, np.int64))
    steps = [maps.identity(example[key].shape[: RANKS[key]] if key else ())]
    for transform, stream in streams(transforms):
        own = draws.stream(stream)
        steps += _maps(transform, example, own.one(0))
        example = _apply(transform, example, own, 0)
    return example, maps.compose(steps)


def padded(example: Example, ragged: Mapping[str, Feature], title: str = "the example") -> Example:
    """The example with its ragged features at their `pad` rows, and how many of them are there.

    Raises:
      UserError: one has more rows than that.
    """
    result = dict(example)
    for name, feature in ragged.items():
        if name not in example:  # predicting: no targets
            continue
        value = np.asarray(example[name], feature.dtype)
        rows, size = len(value), feature.pad or 0
        if rows > size:
            raise UserError(
                f"{title} has {rows} {name}, a batch holds at most {size}; shorten it with a transform"
            )
        result[name] = np.full((size, *value.shape[1:]), feature.fill, feature.dtype)
        result[name][:rows] = value
        result[name + LENGTH] = np.int32(rows)
    return result


def streams(transforms: Sequence[Transform]) -> list[tuple[Transform, str]]:
    """Each transform with the name of its random stream: its class's, and a number from the second use on."""
    found: list[tuple[Transform, str]] = []
    used: dict[str, int] = {}
    for transform in transforms:
        name = type(transform).__name__
        used[name] = used.get(name, 0) + 1
        found.append((transform, name if used[name] == 1 else f"{name}#{used[name]}"))
    return found


def _apply(transform: Transform, example: Example, own: Draws, i: int) -> Example:
    """Example i, alone, with its boxes and points."""
    if transform.batched:
        result = {key: value[0] for key, value in transform(_alone(example), own.one(i)).items()}
    else:
        result = transform(example, own.one(i))
    if isinstance(transform, Geometric) and has_rows(example):
        for done in _maps(transform, example, own.one(i)):  # the same draws once more
            result |= rows_moved(example, done, transform.visible)
    return result


def _maps(transform: Transform, example: Example, draws: Draws) -> list[Map]:
    """The map of one example's main input, none where that does not move."""
    if not isinstance(transform, Geometric):
        return []
    takes = (transform.key,) if isinstance(transform.key, str) else transform.key or ()
    if next((key for key in takes if key in example), None) != _main(example):
        return []
    return transform.maps(_alone(example) if transform.batched else example, draws)


def _main(example: Example) -> str:
    """The first of RANKS that an example holds, '' without any; boxes and points are places in it."""
    return next((key for key in RANKS if key in example), "")


def _alone(example: Example) -> Example:
    return {key: np.asarray(value)[None] for key, value in example.items()}


def _same_shapes(examples: list[Example]) -> bool:
    shapes = [[np.shape(value) for value in example.values()] for example in examples]
    return all(shape == shapes[0] for shape in shapes)


def stack(examples: list[Example]) -> Example:
    """One dict of arrays `b ...`.

    Raises:
      UserError: an entry has different shapes.
    """
    if not _same_shapes(examples):
        key = next(
            key for key in examples[0] if len({np.shape(example[key]) for example in examples}) > 1
        )
        found = sorted({np.shape(example[key]) for example in examples})
        raise UserError(
            f"{key}s of different shapes cannot form a batch ({found[0]}, {found[-1]}, ...); add a "
            "transform that fixes the size to train_transforms and eval_transforms, for instance "
            "('resize', {'size': 224})"
        )
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def unstack(batch: Example) -> list[Example]:
    """The inverse of `stack`."""
    size = len(next(iter(batch.values())))
    return [{key: value[i] for key, value in batch.items()} for i in range(size)]
