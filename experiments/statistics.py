"""Intervals and paired tests: what may be claimed from a few seeds, or from one test set.

Over seeds: Student's t (`metrics.mean_interval`, `paired_t`), or exact sign flips. Over test examples: the bootstrap,
McNemar's test. Bootstrap intervals of fewer than about twenty values are too narrow, BCa or not; three seeds
need t. tests/experiments/test_statistics.py measures by simulation how often each interval holds the truth.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cnn.scoring.sums import Interval, Values, wilson_interval

EXACT_PAIRS = 16  # up to so many pairs all 2^n sign flips are counted
RESAMPLES = 10_000


class Comparison(NamedTuple):
    """One row of a study against another, paired.

    Attributes:
      difference: mean of (a - b), with its confidence limits `low` and `high`.
      p: two-sided, of no difference.
      n: pairs.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int

    def verdict(self, alpha: float = 0.05) -> str:
        """'higher', 'lower' or 'not significant'; 'too few pairs' or 'no variation' where nothing can be tested."""
        if np.isnan(self.p):
            return "too few pairs" if self.n < 2 else "no variation"
        if self.p >= alpha:
            return "not significant"
        return "higher" if self.difference > 0 else "lower"


def bootstrap_interval(
    values: Values,
    statistic: Callable[..., Any] = np.mean,
    *,
    method: str = "bca",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of `statistic(values)` (Efron & Tibshirani 1993, chapters 13 and 14).

    Args:
      values: [n] or [n, ...]; rows are resampled, so that paired columns stay together.
      statistic: called with `axis`: `statistic(samples, axis=1)` of samples [resamples, n, ...].
      method: 'percentile', or 'bca' (corrected for bias and skewness).

    Raises:
      ValueError: no values, or another method.
    """
    from scipy import stats

    values = np.asarray(values, np.float64)
    n = len(values)
    if not n or method not in ("bca", "percentile"):
        raise ValueError(f"bootstrap '{method}' of {n} values: it is 'bca' or 'percentile', of at least one")
    centre = float(statistic(values[None], axis=1)[0])
    if n == 1:
        return Interval(centre, float("nan"), float("nan"), 1)
    rng = np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // max(values.size, 1))
    found = np.concatenate(
        [
            statistic(values[rng.integers(0, n, (min(chunk, resamples - at), n))], axis=1)
            for at in range(0, resamples, chunk)
        ]
    )
    levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca" and np.ptp(found) > 0:
        below = (np.sum(found < centre) + 0.5 * np.sum(found == centre)) / resamples
        bias = stats.norm.ppf(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
        # In turn without each row: their skewness is how the spread changes with the value.
        without = np.stack([np.delete(values, i, axis=0) for i in range(n)]) if n <= 2000 else None
        acceleration = 0.0
        if without is not None:
            left = statistic(without, axis=1)
            away = left.mean() - left
            spread = np.sum(away**2) ** 1.5
            acceleration = float(np.sum(away**3) / (6 * spread)) if spread > 0 else 0.0
        shifted = bias + stats.norm.ppf(levels)
        levels = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(found, levels)
    return Interval(centre, float(low), float(high), n)


def paired_t(a: Values, b: Values, confidence: float = 0.95) -> Comparison:
    """Student's t test of a[i] - b[i]: two networks over the same seeds.

    Raises:
      ValueError: not one value of `a` for each of `b`.
    """
    from scipy import stats

    difference = _pairs(a, b)
    n, centre = len(difference), float(difference.mean())
    if n < 2:
        return Comparison(centre, float("nan"), float("nan"), float("nan"), n)
    error = float(difference.std(ddof=1) / np.sqrt(n))
    if error == 0:  # equal every time, or apart by the same amount: seeds that change nothing prove nothing
        return Comparison(centre, centre, centre, 1.0 if centre == 0 else float("nan"), n)
    half = error * float(stats.t.ppf((1 + confidence) / 2, n - 1))
    p = 2 * float(stats.t.sf(abs(centre / error), n - 1))
    return Comparison(centre, centre - half, centre + half, p, n)


def paired_permutation(a: Values, b: Values, seed: int = 0) -> float:
    """p of the mean difference among all (or 10,000 drawn) flips of the pairs' signs.

    No distribution is assumed; with n pairs p is at least 2 / 2^n, so below six pairs nothing is
    significant at 0.05.
    """
    difference = _pairs(a, b)
    n = len(difference)
    if n <= EXACT_PAIRS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
        drawn = 0
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), (RESAMPLES, n))
        drawn = 1  # the observed signs are one more
    observed = abs(difference.sum())
    as_far = np.abs(signs @ difference) >= observed * (1 - 1e-12)
    return float((as_far.sum() + drawn) / (len(signs) + drawn))


def mcnemar(a_right: Values, b_right: Values) -> Comparison:
    """Exact McNemar test: two classifiers on the same test examples (McNemar 1947, binomial form).

    Only examples that one of them alone gets right count. The interval is that of the paired difference of two
    proportions by squaring and adding Wilson's limits, with the pairs' correlation (Newcombe 1998, method 10).

    Args:
      a_right, b_right: [n] bool, example by example.
    """
    from scipy import stats

    a, b = np.asarray(a_right, bool), np.asarray(b_right, bool)
    _pairs(a, b)
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    low, high = _newcombe(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum()))
    return Comparison((only_a - only_b) / n, low, high, p, n)


def _newcombe(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """Limits of p(a) - p(b) from the four counts of pairs."""
    n = both + only_a + only_b + neither
    one, other = wilson_interval(both + only_a, n), wilson_interval(both + only_b, n)
    product = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    excess = both * neither - only_a * only_b
    if excess > 0:
        excess = max(excess - n / 2, 0)  # Newcombe's continuity correction of phi
    phi = excess / np.sqrt(product) if product else 0.0
    centre = one.mean - other.mean

    def reach(up: float, down: float) -> float:
        return float(np.sqrt(max(up**2 - 2 * phi * up * down + down**2, 0)))

    low = centre - reach(one.mean - one.low, other.high - other.mean)
    high = centre + reach(one.high - one.mean, other.mean - other.low)
    return low, high


def paired_bootstrap(
    a: Values, b: Values, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """BCa interval of the mean of a[i] - b[i] over examples, and p by flipping signs."""
    found = bootstrap_interval(_pairs(a, b), confidence=confidence, seed=seed)
    return Comparison(found.mean, found.low, found.high, paired_permutation(a, b, seed), found.n)


def _pairs(a: Any, b: Any) -> Float[np.ndarray, " n"]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(f"pairs need as many values on both sides, got {a.shape} and {b.shape}")
    return a - b
