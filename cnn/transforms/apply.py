"""Applying transforms to examples, one by one or stacked, and stacking what comes out."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from cnn.draws import Draws
from cnn.errors import UserError
from cnn.features import LENGTH, Feature
from cnn.transforms import Transform

Example = dict[str, Any]


def transform_examples(
    examples: Example | list[Example],
    transforms: Sequence[Transform],
    draws: Draws,
    ragged: Mapping[str, Feature] = MappingProxyType({}),
) -> Example:
    """Applies transforms to stacked examples or to a list of them, pads what is ragged, and stacks the result.

    The result does not depend on which of the two forms comes in, or on the batch that an example is in.
    """
    for transform in transforms:
        own = draws.stream(type(transform).__name__)
        if transform.batched and isinstance(examples, list) and not ragged and _same_shapes(examples):
            examples = _stack(examples)
        if isinstance(examples, dict):
            if transform.batched:
                examples = transform(examples, own)
                continue
            examples = _unstack(examples)
        call = _apply_batched if transform.batched else _apply
        examples = [call(transform, example, own.one(i)) for i, example in enumerate(examples)]
    if isinstance(examples, dict):
        return examples
    return _stack([padded(example, ragged) for example in examples] if ragged else examples)


def padded(example: Example, ragged: Mapping[str, Feature]) -> Example:
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
            raise UserError(f"an example has {rows} {name}, a batch holds at most {size}; shorten it with a transform")
        result[name] = np.full((size, *value.shape[1:]), feature.fill, feature.dtype)
        result[name][:rows] = value
        result[name + LENGTH] = np.int32(rows)
    return result


def _apply(transform: Transform, example: Example, draws: Draws) -> Example:
    return transform(example, draws)


def _apply_batched(transform: Transform, example: Example, draws: Draws) -> Example:
    result = transform({key: np.asarray(value)[None] for key, value in example.items()}, draws)
    return {key: value[0] for key, value in result.items()}


def _same_shapes(examples: list[Example]) -> bool:
    shapes = [[np.shape(value) for value in example.values()] for example in examples]
    return all(shape == shapes[0] for shape in shapes)


def _stack(examples: list[Example]) -> Example:
    if not _same_shapes(examples):
        key = next(
            key for key in examples[0] if len({np.shape(example[key]) for example in examples}) > 1
        )
        found = sorted({np.shape(example[key]) for example in examples})
        raise UserError(
            f"{key}s of different shapes cannot form a batch ({found[0]}, {found[-1]}, ...); add a "
            "transform that fixes the size to train_transforms and eval_transforms, for instance "
            "resize=dict(size=224)"
        )
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def _unstack(batch: Example) -> list[Example]:
    size = len(next(iter(batch.values())))
    return [{key: value[i] for key, value in batch.items()} for i in range(size)]
