"""From a source to batches: `batches[step]` is a pure function of the step, on every host."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Int64

from cnn.data import MEMORY_LIMIT
from cnn.data.order import Bucketed, Order, Shuffled, places
from cnn.data.prefetch import Prefetcher, by_grain, in_order
from cnn.data.sources import ArraySource, CachedSource, Example, Source, lengths
from cnn.draws import Draws
from cnn.errors import UserError
from cnn.features import Feature
from cnn.transforms import Transform
from cnn.transforms.apply import transform_examples

_ENDLESS = 1 << 40  # steps; training batches never run out


class TrainBatches:
    """Endless training batches, by step.

    `batches[step]` is a dict of stacked arrays with `valid`, of the rows of this process: a contiguous block of the
    global batch.

    Args:
      batch_size: over all processes.
      shuffle: every epoch in a new order; else all of them in the source's.
      ragged: the features that are padded, by name.
      buckets: sizes to pad to, by the length of the first of them: batches hold examples of similar length, and `pad`
        is the last size; () pads all batches alike.

    Raises:
      UserError: the source is empty, batch_size does not divide over the processes, or buckets that do not fit.
    """

    def __init__(
        self,
        source: Source,
        transforms: Sequence[Transform],
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        shuffle: bool = True,
        ragged: Mapping[str, Feature] = MappingProxyType({}),
        buckets: Sequence[int] = (),
    ):
        (self.source, self.transforms), self.seed = prepared(source, transforms), seed
        self.batch_size, self.size, self.ragged = batch_size, len(source), dict(ragged)
        self.start, self.local = _block(batch_size, process_index, process_count)
        if not self.size:
            raise UserError("the training split is empty")
        self.order: Order = Shuffled(seed, self.size, batch_size, shuffle)
        if buckets:
            self.order = bucketed(self.source, self.ragged, buckets, seed, batch_size)
        self.steps_per_epoch = self.order.steps_per_epoch

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, step: int) -> Example:
        return self.several(int(step), 1)

    def several(self, step: int, count: int) -> Example:
        """The rows of `count` batches from `step` on, one batch after the other; they must have one size."""
        rows, positions, valid = self.order.block(step, count, self.start, self.local)
        pads = resized(self.ragged, self.order.pads(step))
        batch = load(self.source, self.transforms, rows, Draws(self.seed, positions), pads)
        return {**batch, "valid": valid}


def resized(ragged: Mapping[str, Feature], sizes: Mapping[str, int]) -> dict[str, Feature]:
    """The features with other sizes of their padding."""
    return {name: dataclasses.replace(one, pad=sizes.get(name, one.pad)) for name, one in ragged.items()}


def bucketed(
    source: Source, ragged: Mapping[str, Feature], buckets: Sequence[int], seed: int, batch_size: int
) -> Bucketed:
    """The order by length of a source's first ragged feature, and of those that are as long.

    Raises:
      UserError: there is no ragged feature, or buckets that do not fit.
    """
    if not ragged:
        raise UserError("input.buckets is for data of different lengths; these have none: leave it at ()")
    name, feature = next(iter(ragged.items()))
    sizes = (*(size for size in buckets if size < (feature.pad or 0)), feature.pad or 0)
    alike = [other for other, one in ragged.items() if one.pad == feature.pad and one.axes[0] == feature.axes[0]]
    try:
        return Bucketed(seed, batch_size, lengths(source, name), sizes, alike)
    except ValueError as error:
        raise UserError(f"input.buckets {tuple(buckets)}: {error}") from error


class EvalBatches:
    """Every example once, in order. The last batch is padded with example 0, `valid` False there.

    The number of batches is the same on all processes.

    Raises:
      UserError: as TrainBatches.
    """

    def __init__(
        self,
        source: Source,
        transforms: Sequence[Transform],
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        ragged: Mapping[str, Feature] = MappingProxyType({}),
    ):
        self.source, self.transforms = prepared(source, transforms)
        self.batch_size, self.size, self.ragged = batch_size, len(source), dict(ragged)
        self.start, self.local = _block(batch_size, process_index, process_count)
        if not self.size:
            raise UserError("the evaluation split is empty")

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __getitem__(self, step: int) -> Example:
        if not 0 <= step < len(self):
            raise IndexError(step)
        return self.several(int(step), 1)

    def several(self, step: int, count: int) -> Example:
        """The rows of `count` batches from `step` on, one batch after the other."""
        rows = places(step, count, self.batch_size, self.start, self.local)
        valid = rows < self.size
        rows = np.where(valid, rows, 0)
        return {**load(self.source, self.transforms, rows, Draws(0, rows), self.ragged), "valid": valid}


class TransformedSource:
    """A source behind transforms that draw nothing."""

    def __init__(self, source: Source, transforms: Sequence[Transform]):
        self.source, self.transforms = source, tuple(transforms)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Example:
        found = transform_examples([self.source[i]], self.transforms, Draws(0, np.array([i])))
        return {key: value[0] for key, value in found.items()}

    def get(self, indices: Sequence[int]) -> list[Example]:
        return [self[i] for i in indices]

    def describe(self, i: int) -> str:
        return self.source.describe(i)


def prepared(source: Source, transforms: Sequence[Transform]) -> tuple[Source, tuple[Transform, ...]]:
    """(source, transforms) that give the same examples, the `fixed` transforms at the head applied once and kept.

    Resampling a volume takes seconds, every patch of it milliseconds. What does not fit in memory beside the rest
    (2 GiB) is made again each time.
    """
    head = list(itertools.takewhile(lambda transform: getattr(transform, "fixed", False), transforms))
    if not head:
        return source, tuple(transforms)
    raw = source.source if isinstance(source, CachedSource) else source  # else it would be kept twice
    return CachedSource(TransformedSource(raw, head), MEMORY_LIMIT), tuple(transforms[len(head) :])


def _block(batch_size: int, process_index: int, process_count: int) -> tuple[int, int]:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size {batch_size} does not divide over {process_count} processes; "
            f"use a multiple of {process_count}"
        )
    local = batch_size // process_count
    return process_index * local, local


def load(
    source: Source,
    transforms: Sequence[Transform],
    rows: Int64[np.ndarray, " b"],
    draws: Draws,
    ragged: Mapping[str, Feature] = MappingProxyType({}),
) -> Example:
    """Reads `rows`, transforms them, pads what is ragged and stacks them. Arrays in memory are gathered in one go.

    Raises:
      UserError: an example that cannot be read, which is named, or results of different shapes.
    """
    if isinstance(source, ArraySource):
        examples: Any = {key: value[rows] for key, value in source.arrays.items()}
    else:
        examples = _read(source, rows)
    try:
        return transform_examples(examples, transforms, draws, ragged, lambda i: source.describe(int(rows[i])))
    except UserError:
        raise
    except Exception as error:
        first, last = source.describe(int(rows[0])), source.describe(int(rows[-1]))
        error.add_note(f"while transforming a batch from {first} to {last}")
        raise


def _read(source: Source, rows: Int64[np.ndarray, " b"]) -> list[Example]:
    try:
        return source.get(rows.tolist())
    except UserError:
        raise
    except Exception:
        for row in rows.tolist():  # a reader of many does not say which one was bad
            try:
                source[row]
            except Exception as error:
                raise UserError(
                    f"{source.describe(row)} cannot be read: {type(error).__name__}: {error}; "
                    "find all such records with `cnn data check`"
                ) from error
        raise


def iterate(
    batches: TrainBatches | EvalBatches,
    start: int = 0,
    threads: int = 0,
    workers: int = 0,
    place: Callable[[Example], Any] = lambda batch: batch,
) -> Prefetcher | Generator[Any, None, None]:
    """batches[start], batches[start + 1], ... prepared ahead of time, in order.

    Where a batch is only a gather of arrays in memory it is made when it is asked for: that takes a
    fraction of a millisecond, the devices are busy with the steps before it meanwhile, and a thread would
    compete with XLA:CPU for the cores (7 % of a training step on digits, on two cores). One thread
    prepares such batches where `threads` is 1, Grain all others. Close it (`contextlib.closing`) where it
    is left before its end.

    Args:
      place: what else to do with each batch, also ahead of time: moving it to the devices.
      threads: that prepare a batch each; 0 chooses for the source, the cores and about 1 GiB of batches.
      workers: processes that do so instead; for transforms in Python that hold the interpreter lock.

    Raises:
      Whatever preparing a batch raised, at the place where that batch would have come.
    """
    if isinstance(batches.source, ArraySource) and not workers:
        if threads == 0:
            return (place(batch) for batch in in_order(batches, start))
        if threads == 1:
            return Prefetcher(in_order(batches, start), place)

    def size() -> int:
        arrays = example_spec(batches.source, batches.transforms, batches.ragged).values()
        return batches.local * sum(math.prod(shape) * dtype.itemsize for shape, dtype in arrays)

    return Prefetcher(by_grain(batches, start, threads, workers, size), place)


def example_spec(
    source: Source, transforms: Sequence[Transform], ragged: Mapping[str, Feature] = MappingProxyType({})
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """{name: (shape, dtype)} of example 0 after the transforms.

    Raises:
      UserError: it cannot be read, or not be transformed.
    """
    row = np.zeros(1, np.int64)
    found = load(source, transforms, row, Draws(0, row), ragged)
    return {name: (value.shape[1:], value.dtype) for name, value in found.items()}
