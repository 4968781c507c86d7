"""Metrics that add up exactly, and the intervals they are reported with.

A metric is a pair (sum, count), both scalars or arrays of one shape each. A jitted step makes it for one batch
in float32; the host adds the pairs of many batches in float64, so the result does not depend on how the
examples were batched, and padding, which neither adds to the sum nor to the count, never shows.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

Sums = dict[str, tuple[Any, Any]]  # name -> (sum, count)
Values = Sequence[Any] | np.ndarray  # [n] numbers


def add(total: Sums, batch: Mapping[str, tuple[Any, Any]]) -> Sums:
    """`total` plus the pairs of one more batch, in float64 on the host. Start with {}."""
    new = dict(total)
    for name, (value, count) in batch.items():
        value, count = np.asarray(value, np.float64), np.asarray(count, np.float64)
        if name in total:
            value, count = total[name][0] + value, total[name][1] + count
        new[name] = (value, count)
    return new


def mean(pair: tuple[Any, Any]) -> Any:
    """sum / count as float64; NaN where nothing was counted."""
    value, count = (np.asarray(part, np.float64) for part in pair)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count == 0, np.nan, value / count)[()]


def means(sums: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    """The mean of every scalar pair; arrays (a confusion matrix, counts per class) are left out."""
    return {name: float(mean(pair)) for name, pair in sums.items() if np.ndim(pair[0]) == 0}


class Interval(NamedTuple):
    """A mean (or proportion) with its confidence limits, of `n` values."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half of high - low: the number behind the +- sign."""
        return (self.high - self.low) / 2


def mean_interval(values: Values, confidence: float = 0.95) -> Interval:
    """Student's t interval for the mean of independent runs; the limits are NaN for fewer than two.

    Raises:
      ValueError: no values.
    """
    from scipy import special  # scipy.stats takes seconds to import

    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("an interval needs at least one value")
    centre = float(values.mean())
    if values.size == 1:
        return Interval(centre, float("nan"), float("nan"), 1)
    error = values.std(ddof=1) / np.sqrt(values.size)
    half = float(error * special.stdtrit(values.size - 1, (1 + confidence) / 2))
    return Interval(centre, centre - half, centre + half, values.size)


def median_interval(values: Values, confidence: float = 0.95) -> Interval:
    """The median with two of the sorted values as limits, whatever the distribution (the sign test's interval).

    Fewer than six values give no interval of 95 %: the limits are NaN.

    Raises:
      ValueError: no values.
    """
    found = np.sort(np.asarray(values, np.float64))
    n, below = found.size, 0.0  # P(at most k - 1 of n values lie below the median)
    if not n:
        raise ValueError("an interval needs at least one value")
    k = 0
    while k < n // 2 and 2 * (below + math.comb(n, k) / 2**n) <= 1 - confidence:
        below += math.comb(n, k) / 2**n
        k += 1
    low, high = (found[k - 1], found[n - k]) if k else (np.nan, np.nan)
    return Interval(float(np.median(found)), float(low), float(high), n)


def wilson_interval(successes: int | float | np.integer, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion, such as one model's accuracy on `n` test examples.

    Stays inside [0, 1] and is right near 0 and 1, where the normal one is not (Wilson 1927).

    Raises:
      ValueError: `n` is not positive, or `successes` is outside 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return Interval(rate, max(0.0, float(centre - half)), min(1.0, float(centre + half)), int(n))
