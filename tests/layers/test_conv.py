"""Convolution against a naive NumPy loop, for every rank and option."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.layers.conv import Conv, ConvTranspose, conv, conv_transpose, fan_in_uniform


def naive(x, kernel, strides, pads, dilation, groups):
    """Sums one window offset at a time, in float64."""
    rank = x.ndim - 2
    x = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)])
    window, per_group, features = kernel.shape[:rank], kernel.shape[-2], kernel.shape[-1]
    sizes = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[1:-1], window, strides, dilation, strict=True)
    ]
    out = np.zeros((x.shape[0], *sizes, features))
    for offset in itertools.product(*map(range, window)):
        cut = tuple(
            slice(o * d, o * d + (n - 1) * s + 1, s)
            for o, d, n, s in zip(offset, dilation, sizes, strides, strict=True)
        )
        seen = x[(slice(None), *cut)]
        for group in range(groups):
            inputs = slice(group * per_group, (group + 1) * per_group)
            outputs = slice(group * features // groups, (group + 1) * features // groups)
            out[..., outputs] += seen[..., inputs] @ kernel[(*offset, slice(None), outputs)]
    return out


@pytest.mark.parametrize(
    ("space", "window", "strides", "padding", "dilation", "groups"),
    [
        ((9,), (5,), (2,), ((1, 1),), (1,), 1),
        ((7,), (3,), (1,), ((0, 2),), (2,), 2),
        ((6, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
        ((7, 8), (3, 2), (2, 3), ((1, 0), (2, 1)), (1, 2), 4),
        ((8, 8), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
        ((4, 5, 6), (3, 1, 2), (2, 1, 2), ((1, 1), (0, 0), (1, 0)), (1, 1, 1), 2),
    ],
)
def test_conv_equals_naive(space, window, strides, padding, dilation, groups):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *space, 4)).astype(np.float32)
    kernel = rng.standard_normal((*window, 4 // groups, 8)).astype(np.float32)
    got = conv(jnp.asarray(x), jnp.asarray(kernel), strides, padding, dilation, groups)
    want = naive(x, kernel, strides, padding, dilation, groups)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "window", "strides", "padding", "dilation", "want"),
    [
        (8, 3, 1, None, 1, 8),
        (8, 3, 2, None, 1, 4),
        (9, 3, 2, None, 1, 5),
        (8, 7, 2, None, 1, 4),
        (8, 3, 1, None, 2, 8),
        (8, 1, 2, None, 1, 4),
        (8, 3, 1, "SAME", 1, 8),
        (8, 3, 1, "VALID", 1, 6),
        (8, 5, 2, 1, 1, 3),
        (8, 3, 1, ((2, 0), (0, 2)), 1, 8),
    ],
)
def test_output_size(size, window, strides, padding, dilation, want):
    layer = Conv(2, window, strides, padding, dilation)
    shape = jax.eval_shape(
        lambda: layer.init_with_output(jax.random.key(0), jnp.zeros((1, size, size, 3)))
    )
    assert shape[0].shape == (1, want, want, 2)


def test_module_parameters_and_compute_type():
    layer = Conv(4, (3, 3), use_bias=True, groups=2, dtype=jnp.bfloat16)
    y, variables = jax.eval_shape(
        lambda: layer.init_with_output(jax.random.key(0), jnp.zeros((1, 5, 5, 6)))
    )
    assert y.dtype == jnp.bfloat16
    params = variables["params"]
    assert params["kernel"].shape == (3, 3, 3, 4)
    assert params["bias"].shape == (4,)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_bias_is_added_per_channel():
    layer = Conv(2, 1, use_bias=True, kernel_init=jax.nn.initializers.zeros)
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 3, 1)))
    params = {**variables["params"], "bias": jnp.array([1.0, -2.0])}
    y = layer.apply({"params": params}, jnp.zeros((1, 3, 1)))
    np.testing.assert_array_equal(y, np.tile([1.0, -2.0], (1, 3, 1)))


def test_fan_in_uniform_has_pytorch_bounds():
    values = fan_in_uniform(25)(jax.random.key(0), (10_000,))
    assert abs(values).max() <= 0.2
    assert abs(values).max() > 0.199
    assert abs(float(values.std()) - 0.2 / 3**0.5) < 2e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 4}, "4 groups do not divide 3 -> 2 channels"),
        ({"padding": "same"}, "padding 'same' is not"),
        ({"kernel_size": (3, 3, 3)}, "for 3 spatial axes, the input has 2"),
        ({"padding": ((1, 1),)}, "has 1 pairs, the input has 2"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: Conv(2, **options).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))


@pytest.mark.parametrize(
    ("space", "window", "strides", "padding", "output_padding", "dilation", "groups", "want"),
    [
        ((5,), (2,), 2, 0, 0, 1, 1, (10,)),
        ((5, 4), (4, 4), 2, 1, 0, 1, 1, (10, 8)),
        ((5, 4), (3, 3), 2, 1, 1, 1, 1, (10, 8)),
        ((4, 4), (3, 2), (1, 3), ((1, 0), (0, 1)), (0, 2), (2, 1), 2, (7, 12)),
        ((3, 4), (3, 3), 1, None, 0, 1, 4, (3, 4)),
        ((2, 3, 2), (2, 1, 3), 2, "VALID", 0, 1, 2, (4, 5, 5)),
    ],
)
def test_conv_transpose_scatters(space, window, strides, padding, output_padding, dilation, groups, want):
    """Each input adds its window to the result, `strides` apart; the padding is cut away."""
    rng = np.random.default_rng(0)
    rank, per_group = len(space), 3
    x = rng.standard_normal((2, *space, 4)).astype(np.float32)
    kernel = rng.standard_normal((*window, per_group, 4)).astype(np.float32)
    got = conv_transpose(jnp.asarray(x), jnp.asarray(kernel), strides, padding, output_padding, dilation, groups)
    assert got.shape == (2, *want, per_group * groups)
    steps, gaps = (np.broadcast_to(v, rank) for v in (strides, dilation))
    low = {None: 1, "VALID": 0}.get(padding, padding) if not isinstance(padding, tuple) else None
    lows = [pair[0] for pair in padding] if low is None else [low] * rank
    full = np.zeros((2, *(40,) * rank, per_group * groups))
    for tap in itertools.product(*map(range, window)):
        cut = tuple(
            slice(t * gap, t * gap + (n - 1) * step + 1, step)
            for t, gap, n, step in zip(tap, gaps, space, steps, strict=True)
        )
        for group in range(groups):
            inside = slice(group * 4 // groups, (group + 1) * 4 // groups)
            outside = slice(group * per_group, (group + 1) * per_group)
            full[(slice(None), *cut, outside)] += x[..., inside] @ kernel[(*tap, slice(None), inside)].T
    seen = tuple(slice(low, low + size) for low, size in zip(lows, want, strict=True))
    np.testing.assert_allclose(got, full[(slice(None), *seen)], rtol=1e-4, atol=1e-4)


def test_conv_transpose_module_doubles():
    layer = ConvTranspose(6, groups=2, use_bias=True, dtype=jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 3, 5, 4)))
    assert y.shape == (1, 6, 10, 6) and y.dtype == jnp.bfloat16
    assert jax.tree.map(jnp.shape, variables["params"]) == {"kernel": (2, 2, 3, 4), "bias": (6,)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "SAME"}, "does not say how large"),
        ({"output_padding": 2, "strides": 2}, "output_padding"),
        ({"groups": 3}, "4 channels do not fit 3 groups"),
        ({"padding": 9}, "more than the transposed convolution makes"),
    ],
)
def test_mistakes_of_conv_transpose_are_named(options, message):
    with pytest.raises(UserError, match=message):
        conv_transpose(jnp.ones((1, 4, 4, 4)), jnp.ones((3, 3, 2, 4)), **options)
