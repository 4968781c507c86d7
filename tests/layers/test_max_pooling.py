"""However max pooling runs, it is `lax`'s: values, derivatives, every transformation, every placement.

With the native library the CPU's pools are loops of our own; `off` tests the stock forms behind the same primitives.
"""

import contextlib
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn.layers.max_pooling import Spec, put, take
from cnn.layers.pool import max_pool
from cnn.native import onednn

NATIVE = onednn.enabled()
needs_native = pytest.mark.skipif(not NATIVE, reason="not built here")
WAYS = [
    pytest.param(contextlib.nullcontext, id="native", marks=needs_native),
    pytest.param(onednn.off, id="off"),
]


def stock(x, window, strides, padding, dilation=1):
    rank = x.ndim - 2
    window, strides, dilation = (
        (1, *v, 1) if isinstance(v, tuple) else (1, *(v,) * rank, 1) for v in (window, strides, dilation)
    )
    pads = ((0, 0), *padding, (0, 0))
    return lax.reduce_window(x, -np.inf, lax.max, window, strides, pads, window_dilation=dilation)


def random_cases(count, seed):
    """(x, window, strides, padding) of all ranks; half of the inputs are full of ties."""
    rng = np.random.default_rng(seed)
    found = 0
    while found < count:
        rank = int(rng.integers(1, 4))
        window, strides = (tuple(map(int, rng.integers(1, 5 if rank < 3 else 4, rank))) for _ in range(2))
        padding = tuple(tuple(map(int, pair)) for pair in rng.integers(0, 3, (rank, 2)))
        space = tuple(map(int, rng.integers(1, (40, 10, 6)[rank - 1], rank)))
        if any(n + sum(p) < k for n, p, k in zip(space, padding, window, strict=True)):
            continue
        found += 1
        shape = (int(rng.integers(1, 5)), *space, int(rng.choice([1, 3, 8, 17, 64, 300])))
        x = rng.standard_normal(shape) if rng.random() < 0.5 else rng.integers(-2, 2, shape)
        yield jnp.asarray(x, jnp.float32), window, strides, padding


def derivatives(function, x):
    """y, its tangent along a direction, and the pullback of a y."""
    direction, weights = wave(x.shape), jnp.cos(wave(jax.eval_shape(function, x).shape) * 3)
    y, tangent = jax.jvp(function, (x,), (direction,))
    return y, tangent, *jax.vjp(function, x)[1](weights)


def wave(shape):
    return jnp.sin(jnp.arange(np.prod(shape, dtype=int), dtype=jnp.float32)).reshape(shape)


def close(found, want):
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=pytest.mark.exhaustive) for i in range(1, 6))])
@pytest.mark.parametrize("way", WAYS[:1])
def test_values_and_derivatives_of_random_shapes(way, seed):
    """150 shapes, each with the value, forward and reverse mode, equal `lax`'s.

    At ties `lax` puts to the first but may take from another; ours is one map and its transpose.
    """
    with way():
        for x, *options in random_cases(25, seed):
            got, want = (
                jax.jit(partial(derivatives, lambda x, f=f, options=options: f(x, *options)))(x)
                for f in (max_pool, stock)
            )
            close(got[0], want[0])
            close(got[2], want[2])
            if len(np.unique(x)) == x.size:
                close(got[1], want[1])
            y, tangent, gradient = map(np.float64, got)
            np.testing.assert_allclose(
                np.vdot(tangent, np.cos(np.float64(wave(y.shape)) * 3)), np.vdot(wave(x.shape), gradient), atol=1e-3
            )


X = jax.random.normal(jax.random.key(0), (4, 9, 8, 6))
OPTIONS = ((3, 2), (2, 1), ((1, 1), (0, 1)))


def ours(x):
    return max_pool(x, *OPTIONS)


def theirs(x):
    return stock(x, *OPTIONS)


@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives(way):
    """Of a function that is not linear behind the pool: reverse over reverse, and forward over reverse."""

    def gradient(function, x):
        return jax.grad(lambda x: jnp.sum(jnp.tanh(function(jnp.sin(x)))))(x)

    def twice(function, x):
        return jax.grad(lambda x: jnp.sum(gradient(function, x) ** 2))(x)

    def along(function, x):
        return jax.jvp(partial(gradient, function), (x,), (jnp.cos(x),))[1]

    with way():
        for derivative in (gradient, twice, along):
            close(*(jax.jit(partial(derivative, f))(X) for f in (ours, theirs)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("axis", [0, 2, 4])
def test_vmap(way, axis):
    xs = jnp.stack([X, -X, jnp.cos(X)], axis)
    with way():
        got, want = (
            jax.jit(jax.vmap(partial(derivatives, f), in_axes=axis, out_axes=1))(xs) for f in (ours, theirs)
        )
        for found, expected in zip(got, want, strict=True):
            close(found, expected)


@pytest.mark.parametrize("way", WAYS)
def test_vmap_of_cotangents_alone(way):
    """A Jacobian maps what is put, not the input."""
    x = X[:1, :4, :4, :2]
    with way():
        close(jax.jit(jax.jacrev(ours))(x), jax.jit(jax.jacfwd(ours))(x))
        close(jax.jit(jax.jacrev(ours))(x), jax.jit(jax.jacrev(theirs))(x))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dilation", [2, 3])
def test_dilated_windows_have_gradients(way, rank, dilation):
    """`lax` has none for them; `put` is the transpose of `take`, and `take` is `lax`'s."""
    shape = (2, *(9,) * rank, 5)
    rng = np.random.default_rng(0)  # `lax` may take from another than the first of equals: here are none
    x = jnp.asarray(rng.permutation(math.prod(shape)).reshape(shape), jnp.float32)
    t = jnp.asarray(rng.integers(-3, 3, shape), jnp.float32)
    spec = Spec((3,) * rank, (2,) * rank, ((1, 2),) * rank, (dilation,) * rank)
    with way():
        taken = jax.jvp(lambda x: max_pool(x, *spec), (x,), (t,))[1]
        want = jax.jvp(lambda x: stock(x, *spec), (x,), (t,))[1]
        np.testing.assert_array_equal(taken, want)
        y = jnp.asarray(rng.integers(-3, 3, taken.shape), jnp.float32)
        np.testing.assert_array_equal(jnp.vdot(take(t, x, spec), y), jnp.vdot(t, put(y, x, spec)))


@pytest.mark.parametrize("way", WAYS)
def test_ceil_mode(way):
    """As the same windows with padding behind the input."""
    x = X[:, :8, :8]
    with way():
        for found, want in zip(
            derivatives(lambda x: max_pool(x, 3, 2, 0, ceil=True), x),
            derivatives(lambda x: stock(x, 3, 2, ((0, 1), (0, 1))), x),
            strict=True,
        ):
            close(found, want)


@pytest.mark.parametrize("way", WAYS)
def test_nan_and_infinity(way):
    """A NaN in a window is its largest wherever it stands; padding is less than all."""
    x = jnp.asarray([np.nan, 1, 2, 3, np.nan, 5, 6, 7, np.nan, -np.inf, -np.inf, np.inf], jnp.float32)
    x = x.reshape(1, 12, 1)
    with way():
        got, want = (f(x, 3, 3, ((0, 0),)) for f in (max_pool, stock))
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(got[0, :, 0], [np.nan, np.nan, np.nan, np.inf])
        np.testing.assert_array_equal(max_pool(x[:, 9:11], 3, 1, 1)[0, :, 0], [-np.inf, -np.inf])
        # A NaN loses what is taken and put to the pixels behind it, as in `lax`.
        for found, expected in zip(
            *(derivatives(lambda x, f=f: f(x, 3, 3, ((0, 0),)), x)[1:] for f in (max_pool, stock)), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("way", WAYS)
def test_windows_that_see_only_padding(way):
    """Nothing is the largest of nothing, and nothing is put nowhere."""
    x = jnp.ones((2, 3, 4))
    with way():
        y, tangent, gradient = derivatives(lambda x: max_pool(x, 1, 1, ((2, 1),)), x)
    assert (y[:, :2] == -jnp.inf).all() and (y[:, -1] == -jnp.inf).all() and (y[:, 2:5] == 1).all()
    assert (tangent[:, :2] == 0).all() and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types_stay_narrow(way, dtype):
    x = X.astype(dtype)
    with way():
        for found, want in zip(*(jax.vjp(f, x)[1](f(x)) for f in (ours, theirs)), strict=True):
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_batch(way):
    x = jnp.zeros((0, 9, 8, 6))
    with way():
        y, tangent, gradient = jax.jit(partial(derivatives, ours))(x)
    assert y.shape == tangent.shape == theirs(x).shape and gradient.shape == x.shape


@pytest.mark.parametrize("way", WAYS)
def test_scan_and_remat(way):
    def loss(function, x):
        def body(x, _):
            return jnp.tanh(jax.checkpoint(function)(x)), ()

        return jnp.sum(lax.scan(body, x, None, 3)[0] ** 2)

    same = ((1, 1), (1, 1))
    with way():
        close(
            *(
                jax.jit(jax.grad(partial(loss, lambda x, f=f: f(x, 3, 1, same))))(X)
                for f in (max_pool, stock)
            )
        )


@pytest.fixture
def mesh():
    if len(jax.devices()) < 8:
        pytest.skip("needs eight simulated devices")
    return Mesh(np.array(jax.devices()[:8]), ("data",))


LARGE = jax.random.normal(jax.random.key(1), (16, 9, 8, 8))


@pytest.mark.parametrize("way", WAYS)
def test_a_split_batch_stays_split(mesh, way):
    split = NamedSharding(mesh, PartitionSpec("data"))
    with way():
        run = jax.jit(partial(derivatives, ours), in_shardings=split)
        text = run.lower(LARGE).compile().as_text()
        assert not re.findall(r" (all-gather|all-reduce|all-to-all|collective-permute)\(", text)
        found = run(jax.device_put(LARGE, split))
        assert all(value.sharding.is_equivalent_to(split, 4) for value in (found[0], found[2]))
        for value, want in zip(found, derivatives(theirs, LARGE), strict=True):
            close(np.asarray(value), want)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spec", [(None, None, "data"), (None, None, None, "data"), ()], ids=str)
def test_other_splits_are_right(mesh, way, spec):
    x = jax.device_put(LARGE, NamedSharding(mesh, PartitionSpec(*spec)))
    with way():
        for value, want in zip(jax.jit(partial(derivatives, ours))(x), derivatives(theirs, LARGE), strict=True):
            close(np.asarray(value), want)


@pytest.mark.parametrize("way", WAYS)
def test_in_shard_map(mesh, way):
    """Also of a cotangent that is the same on all devices."""

    def run(x):
        y, pull = jax.vjp(ours, x)
        return y, pull(lax.pcast(jnp.ones(y.shape), "data", to="varying"))[0], jnp.tanh(x)

    with way():
        split = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data")))
        y, gradient, _ = split(LARGE)
        close(np.asarray(y), theirs(LARGE))
        close(np.asarray(gradient), jax.grad(lambda x: theirs(x).sum())(LARGE))


def test_other_platforms_and_exports_get_stock_pooling():
    def both(x):
        return jax.value_and_grad(lambda x: ours(x).sum())(x)

    text = jax.jit(both).trace(X).lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.reduce_window" in text and text.count("stablehlo.select_and_scatter") == 1
    assert "custom_call" not in text
    exported = jax.export.export(jax.jit(both), platforms=("cpu", "tpu"))(X)
    assert "custom_call" not in exported.mlir_module()
    jax.tree.map(close, exported.call(X), both(X))


def test_a_batch_of_unknown_size_can_be_exported():
    (b,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(ours))(jax.ShapeDtypeStruct((b, 9, 8, 6), jnp.float32))
    for size in (1, 3):
        close(exported.call(X[:size]), theirs(X[:size]))


@needs_native
def test_the_same_bits_with_any_number_of_threads(monkeypatch):
    def bits(count):
        monkeypatch.setattr(onednn, "threads", lambda: count)
        return jax.device_get(jax.jit(lambda x: derivatives(ours, x))(LARGE))  # another function: compiled anew

    first = bits(1)
    for count in (2, 3, 40):
        jax.tree.map(np.testing.assert_array_equal, first, bits(count))


@needs_native
def test_the_switch_decides_what_is_compiled():
    def text():
        return jax.jit(lambda x: derivatives(ours, x)).lower(X).as_text()

    assert text().count("custom_call @cnn_pool") == 3  # the value, what is taken and what is put
    with onednn.off():
        assert "custom_call" not in text()
    assert "custom_call @cnn_pool" in text()
