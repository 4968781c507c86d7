"""Which example comes when: a pure function of (seed, epoch, position).

So the order does not depend on batch size, hosts, workers, threads or where a run was resumed. Integer arithmetic only.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64

from cnn.draws import key, mix

_ROUNDS = 4  # pairs of half-rounds
_CACHE_LIMIT = 1 << 20  # up to so many examples, a whole epoch's permutation is kept (8 MiB)


def order(
    seed: int, epoch: int, n: int, positions: Int64[np.ndarray, " b"]
) -> Int64[np.ndarray, " b"]:
    """Where a shuffled epoch's `positions` (each in 0..n-1) point: a permutation of range(n).

    A Feistel network over the next power of two, walked until the value falls below n (Black &
    Rogaway 2002, "Ciphers with arbitrary finite domains", method 2): constant memory, any n.
    """
    if n == 1:
        return np.zeros_like(positions)
    bits = max(2, (n - 1).bit_length())
    right = np.uint64(bits - bits // 2)
    left_mask, right_mask = np.uint64((1 << bits // 2) - 1), np.uint64((1 << int(right)) - 1)
    keys = [np.uint64(key(seed, epoch, n, i)) for i in range(2 * _ROUNDS)]

    def once(x):
        a, b = x >> right, x & right_mask
        for i in range(0, 2 * _ROUNDS, 2):
            a = a ^ (mix(b + keys[i]) & left_mask)
            b = b ^ (mix(a + keys[i + 1]) & right_mask)
        return (a << right) | b

    x = once(positions.astype(np.uint64))
    outside = np.flatnonzero(x >= n)
    while outside.size:
        x[outside] = once(x[outside])
        outside = outside[x[outside] >= n]
    return x.astype(np.int64)


@functools.lru_cache(maxsize=8)
def _whole_epoch(seed: int, epoch: int, n: int) -> Int64[np.ndarray, " n"]:
    result = order(seed, epoch, n, np.arange(n))
    result.flags.writeable = False
    return result


def indices(seed: int, n: int, positions: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
    """Examples at `positions` of the endless training sequence: every example once per epoch.

    Position p is in epoch p // n; every epoch has its own permutation.
    """
    epochs, within = np.divmod(positions, n)
    result = np.empty_like(positions)
    for epoch in range(int(epochs.min()), int(epochs.max()) + 1) if len(positions) else ():
        here = epochs == epoch
        if n <= _CACHE_LIMIT:
            result[here] = _whole_epoch(seed, epoch, n)[within[here]]
        else:
            result[here] = order(seed, epoch, n, within[here])
    return result


class Block(NamedTuple):
    """Some rows of the training sequence.

    Attributes:
      rows: examples of the source.
      positions: their places in the endless sequence, which their random numbers depend on.
      valid: False for padding.
    """

    rows: Int64[np.ndarray, " b"]
    positions: Int64[np.ndarray, " b"]
    valid: Bool[np.ndarray, " b"]


@runtime_checkable
class Order(Protocol):
    """Which examples make up which batch."""

    steps_per_epoch: float

    def block(self, step: int, count: int, start: int, local: int) -> Block:
        """Rows `start` .. `start + local - 1` of each of `count` batches from `step` on, one batch after the other."""

    def pads(self, step: int) -> Mapping[str, int]:
        """Rows that ragged features are padded to in a batch, where that differs from their `pad`."""


class Shuffled:
    """Every epoch in a new order; batches reach over the end of an epoch. Nothing is dropped.

    Args:
      n: examples; batch_size: over all processes.
      shuffle: False keeps the source's order, the same in every epoch.
    """

    def __init__(self, seed: int, n: int, batch_size: int, shuffle: bool = True):
        self._seed, self._n, self._batch_size, self._shuffle = seed, n, batch_size, shuffle
        self.steps_per_epoch = n / batch_size

    def block(self, step: int, count: int, start: int, local: int) -> Block:
        """See `Order`."""
        positions = places(step, count, self._batch_size, start, local)
        rows = indices(self._seed, self._n, positions) if self._shuffle else positions % self._n
        return Block(rows, positions, np.ones(len(rows), bool))

    def pads(self, step: int) -> Mapping[str, int]:
        """See `Order`."""
        return {}


class Bucketed:
    """Batches of examples of similar length, so that little is padding; their sizes are a few static ones.

    Every epoch is shuffled, dealt into buckets and cut into batches; what is left of a bucket moves on to the next
    larger one, where it fits as well. So every example comes once per epoch, and only the last batch is filled up, with
    examples that are not `valid`. Then the batches are shuffled.

    Args:
      n: examples; batch_size: over all processes.
      lengths: [n] rows of the feature that the buckets are for.
      sizes: rows that the batches are padded to, ascending; the last holds the longest example.
      features: what is padded to these sizes.

    Raises:
      ValueError: sizes that do not ascend, or an example that is longer than all of them.
    """

    def __init__(
        self,
        seed: int,
        batch_size: int,
        lengths: Int64[np.ndarray, " n"],
        sizes: Sequence[int],
        features: Sequence[str],
    ):
        if list(sizes) != sorted(set(sizes)) or not len(sizes):
            raise ValueError(f"sizes of buckets must ascend, got {tuple(sizes)}")
        if lengths.max() > sizes[-1]:
            longest = int(lengths.argmax())
            raise ValueError(f"example {longest} has {lengths[longest]} rows, the largest bucket {sizes[-1]}")
        self._seed, self._batch_size, self._features = seed, batch_size, tuple(features)
        self._bucket, self._sizes = np.searchsorted(np.asarray(sizes), lengths), tuple(sizes)
        self._batches = -(-len(lengths) // batch_size)
        self.steps_per_epoch = float(self._batches)
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(places in the epoch's order [batches, batch_size], bucket of each batch, examples by place)."""
        if epoch in self._epochs:
            return self._epochs[epoch]
        n, size = len(self._bucket), self._batch_size
        order_ = order(self._seed, epoch, n, np.arange(n))
        buckets, places_ = self._bucket[order_], np.arange(n)
        batches, kinds, left = [], [], places_[:0]
        for kind in range(len(self._sizes)):
            mine = np.concatenate([left, places_[buckets == kind]])
            full = len(mine) // size * size
            batches += list(mine[:full].reshape(-1, size))
            kinds += [kind] * (full // size)
            left = mine[full:]
        if len(left):
            # Padding repeats examples of this batch: they fit its size.
            batches.append(np.concatenate([left, -1 - np.resize(left, size - len(left))]))
            kinds.append(len(self._sizes) - 1)
        dealt = order(key(self._seed, 1), epoch, len(batches), np.arange(len(batches)))
        found = np.stack(batches)[dealt], np.array(kinds)[dealt], order_
        self._epochs = {**dict(list(self._epochs.items())[-1:]), epoch: found}  # two at most
        return found

    def block(self, step: int, count: int, start: int, local: int) -> Block:
        """See `Order`."""
        blocks = [self._one(number, start, local) for number in range(step, step + count)]
        return Block(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))

    def _one(self, step: int, start: int, local: int) -> Block:
        epoch, batch = divmod(step, self._batches)
        places_, _, order_ = self._epoch(epoch)
        here = places_[batch, start : start + local]
        valid = here >= 0
        here = np.where(valid, here, -1 - here)
        return Block(order_[here], epoch * len(order_) + here, valid)

    def pads(self, step: int) -> Mapping[str, int]:
        """See `Order`."""
        epoch, batch = divmod(step, self._batches)
        return dict.fromkeys(self._features, self._sizes[self._epoch(epoch)[1][batch]])


def places(step: int, count: int, batch_size: int, start: int, local: int) -> Int64[np.ndarray, " b"]:
    """Places in the global sequence of one process's rows of `count` batches."""
    first = (step + np.arange(count)) * batch_size + start
    return (first[:, None] + np.arange(local)).reshape(-1)
