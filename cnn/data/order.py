"""Which example comes when: a pure function of (seed, epoch, position).

So the order does not depend on batch size, hosts, workers, threads or where a run was resumed. Integer arithmetic only.
"""

import functools

import numpy as np
from jaxtyping import Int64

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
