"""Pooling against NumPy, and the statistics of dropping."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.layers.drop import Dropout, StochasticDepth
from cnn.layers.pool import adaptive_avg_pool, avg_pool, blur_pool, global_avg_pool, max_pool


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pools_equal_numpy(rank):
    x = np.random.default_rng(0).standard_normal((2, *(4,) * rank, 3)).astype(np.float32)
    split = x.reshape(2, *(2, 2) * rank, 3)
    axes = tuple(range(2, 2 * rank + 1, 2))
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), 2), split.max(axes))
    np.testing.assert_allclose(avg_pool(jnp.asarray(x), 2), split.mean(axes), atol=1e-6)
    np.testing.assert_allclose(
        global_avg_pool(jnp.asarray(x)), x.mean(tuple(range(1, rank + 1))), atol=1e-6
    )


def test_padding_neither_wins_nor_counts():
    x = -jnp.ones((1, 4, 4, 1))
    np.testing.assert_array_equal(max_pool(x, 3, 2, padding=1), -jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(avg_pool(x, 3, 2, padding=1), -jnp.ones((1, 2, 2, 1)))
    assert avg_pool(x, 3, 1, padding="SAME").shape == x.shape


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_adaptive_pool_is_the_mean_of_its_windows(rank, size):
    x = np.random.default_rng(0).standard_normal((2, *(5, 6, 2)[:rank], 3)).astype(np.float32)
    want = np.zeros((2, *(size,) * rank, 3), np.float32)
    for place in np.ndindex(*(size,) * rank):
        windows = tuple(
            slice(math.floor(i * n / size), math.ceil((i + 1) * n / size))
            for i, n in zip(place, x.shape[1:-1], strict=True)
        )
        want[:, *place] = x[:, *windows].mean(axis=tuple(range(1, rank + 1)))
    np.testing.assert_allclose(adaptive_avg_pool(jnp.asarray(x), size), want, atol=1e-6)


def test_nothing_has_no_mean():
    with pytest.raises(UserError, match="the input is too small"):
        adaptive_avg_pool(jnp.zeros((1, 0, 4, 2)), 3)


# pixels, window, stride, padding, dilation, ceil: the largest of 0, 1, 2, ... in each window, as PyTorch finds it
@pytest.mark.parametrize(
    ("pixels", "window", "stride", "padding", "dilation", "ceil", "want"),
    [
        (6, 3, 2, 0, 1, False, [2, 4]),
        (6, 3, 2, 0, 1, True, [2, 4, 5]),
        (7, 3, 2, 0, 1, True, [2, 4, 6]),
        (5, 2, 2, 0, 1, True, [1, 3, 4]),
        (4, 3, 2, 1, 1, True, [1, 3, 3]),
        (4, 2, 2, 1, 1, True, [0, 2, 3]),  # a fourth window would begin behind the input
        (6, 3, 1, 0, 2, False, [4, 5]),
        (6, 3, 2, 0, 2, True, [4, 4]),
        (2, 3, 2, 0, 1, True, [1]),
    ],
)
def test_windows_at_the_border(pixels, window, stride, padding, dilation, ceil, want):
    x = jnp.arange(float(pixels)).reshape(1, pixels, 1)
    found = max_pool(x, window, stride, padding, dilation, ceil)
    np.testing.assert_array_equal(found[0, :, 0], want)


def test_average_may_count_padding_and_skip_pixels():
    x = jnp.ones((1, 4, 4, 1))
    counted = avg_pool(x, 3, 1, padding=1, count_padding=True)[0, :, :, 0]
    np.testing.assert_allclose(counted[0], [4 / 9, 6 / 9, 6 / 9, 4 / 9], rtol=1e-6)
    line = jnp.arange(5.0).reshape(1, 5, 1)
    np.testing.assert_array_equal(avg_pool(line, 2, 1, dilation=2)[0, :, 0], [1, 2, 3])


def test_max_pool_has_a_gradient():
    x = jnp.arange(4.0).reshape(1, 4, 1)
    grad = jax.grad(lambda x: max_pool(x, 2).sum())(x)
    np.testing.assert_array_equal(grad[0, :, 0], [0, 1, 0, 1])


def test_global_avg_pool_sums_in_float32():
    assert global_avg_pool(jnp.ones((1, 64, 64, 1), jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("layer", [Dropout, StochasticDepth])
def test_dropping_keeps_the_mean_and_stops_in_evaluation(layer):
    x = jnp.ones((4000, 2, 2, 1))
    rngs = {"dropout": jax.random.key(0)}
    y = layer(0.25).apply({}, x, train=True, rngs=rngs)
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    assert abs(float(y.mean()) - 1) < 0.03
    whole = (np.ptp(np.asarray(y).reshape(4000, -1), axis=1) == 0).mean()
    assert whole == 1 if layer is StochasticDepth else whole < 0.5
    np.testing.assert_array_equal(layer(0.25).apply({}, x, train=False), x)
    np.testing.assert_array_equal(layer(0.0).apply({}, x, train=True), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_are_probabilities(rate):
    with pytest.raises(UserError, match=r"a probability in \[0, 1\)"):
        Dropout(rate).apply({}, jnp.ones(3), train=True)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("taps", [3, 5])
def test_blur_pool_keeps_constants_and_removes_the_highest_frequency(rank, taps):
    constant = jnp.full((2, *(9,) * rank, 3), 2.0)
    np.testing.assert_allclose(blur_pool(constant, 2, taps), jnp.full((2, *(5,) * rank, 3), 2.0), rtol=1e-6)
    sign = (-1.0) ** np.indices((9,) * rank).sum(axis=0)
    found = blur_pool(jnp.asarray(sign.reshape(1, *(9,) * rank, 1), jnp.float32), 2, taps)
    np.testing.assert_allclose(found, jnp.zeros_like(found), atol=1e-6)


def test_blur_pool_is_a_binomial_filter_that_leaves_unstrided_axes_alone():
    x = np.random.default_rng(0).standard_normal((1, 6, 7, 1)).astype(np.float32)
    row = np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)], mode="reflect")
    wanted = (row[:, :, :-2] + 2 * row[:, :, 1:-1] + row[:, :, 2:])[:, :, ::3] / 4
    np.testing.assert_allclose(blur_pool(jnp.asarray(x), (1, 3)), wanted, atol=1e-6)
