"""Applying transforms to examples, one by one or stacked, and stacking what comes out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn.draws import Draws
from cnn.errors import UserError
from cnn.transforms import Transform

Example = dict[str, Any]


def transform_examples(
    examples: Example | list[Example], transforms: Sequence[Transform], draws: Draws
) -> Example:
    """Applies transforms to stacked examples or to a list of them, and stacks the result.

    The result does not depend on which of the two forms comes in, or on the batch that an example is in.
    """
    for transform in transforms:
        own = draws.stream(type(transform).__name__)
        if transform.batched and isinstance(examples, list) and _same_shapes(examples):
            examples = _stack(examples)
        if isinstance(examples, dict):
            if transform.batched:
                examples = transform(examples, own)
                continue
            examples = _unstack(examples)
        call = _apply_batched if transform.batched else _apply
        examples = [call(transform, example, own.one(i)) for i, example in enumerate(examples)]
    return examples if isinstance(examples, dict) else _stack(examples)


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
