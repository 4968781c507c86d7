"""Sums that add up exactly, and intervals against published numbers."""

import math

import numpy as np
import pytest

from cnn.scoring import sums as metrics


def test_sums_do_not_depend_on_the_batches():
    rng = np.random.default_rng(0)
    hits = rng.random(1000) < 0.3
    results = []
    for size in (1, 7, 250, 1000):
        total = {}
        for start in range(0, 1000, size):
            part = hits[start : start + size]
            matrix = np.full((2, 2), part.sum(), np.float32)
            total = metrics.add(
                total,
                {
                    "accuracy": (np.float32(part.sum()), np.float32(len(part))),
                    "confusion": (matrix, len(part)),
                },
            )
        results.append(total)
    for total in results:
        assert total["accuracy"] == (hits.sum(), 1000)
        np.testing.assert_array_equal(total["confusion"][0], np.full((2, 2), hits.sum()))
        assert metrics.means(total) == {"accuracy": hits.mean()}


def test_add_leaves_its_argument_alone_and_is_float64():
    first = metrics.add({}, {"n": (np.float32(2**24), np.float32(1))})
    second = metrics.add(first, {"n": (np.float32(1), np.float32(1))})
    assert first["n"] == (2**24, 1)
    assert second["n"] == (2**24 + 1, 2)


def test_mean_of_nothing_is_nan():
    assert math.isnan(metrics.mean((0.0, 0.0)))
    np.testing.assert_array_equal(metrics.mean(([1.0, 0.0], [2.0, 0.0])), [0.5, np.nan])


def test_t_interval():
    # Student's sleep data, group 2 (R: t.test(extra[group == 2])): 0.90 to 3.76.
    found = metrics.mean_interval([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    assert found.mean == pytest.approx(2.33)
    assert (found.low, found.high) == pytest.approx((0.8976775, 3.7623225), abs=1e-6)
    assert found.half_width == pytest.approx(1.4323225, abs=1e-6)
    assert found.n == 10


def test_one_run_has_no_interval():
    found = metrics.mean_interval([0.9])
    assert found.mean == 0.9
    assert math.isnan(found.low)
    with pytest.raises(ValueError, match="at least one"):
        metrics.mean_interval([])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, Table I, method 3 (score, no continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval(successes, n, low, high):
    found = metrics.wilson_interval(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.mean == successes / n


def test_no_proportion():
    for successes, n in ((1, 0), (-1, 4), (5, 4)):
        with pytest.raises(ValueError, match="no proportion"):
            metrics.wilson_interval(successes, n)


@pytest.mark.parametrize(
    ("n", "low", "high"),  # places of the limits among the sorted values, from 1; tables of the sign test
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (20, 6, 15), (40, 14, 27)],
)
def test_median_interval(n, low, high):
    values = np.random.default_rng(n).permutation(np.arange(1, n + 1))
    found = metrics.median_interval(values)
    assert (found.mean, found.low, found.high, found.n) == ((n + 1) / 2, low, high, n)


def test_few_values_have_a_median_and_no_interval():
    found = metrics.median_interval([3.0, 1.0, 2.0, 5.0, 4.0])
    assert found.mean == 3 and np.isnan(found.low) and np.isnan(found.high)
    with pytest.raises(ValueError):
        metrics.median_interval([])
