"""Normalisation: NumPy over the whole batch, and the same meaning on every device count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from cnn.errors import UserError
from cnn.layers.norm import BatchNorm, GroupNorm, group_size, make_norm

EPSILON = 1e-5


def data(shape=(8, 3, 3, 5), mean=1.5):
    return (np.random.default_rng(0).standard_normal(shape) * 2 + mean).astype(np.float32)


def apply(mode, x, stats=None, train=True, mutable=("batch_stats", "batch_moments"), **options):
    layer = BatchNorm(mode=mode, **options)
    channels = x.shape[-1]
    variables = {
        "params": {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)},
        "batch_stats": stats or {"mean": jnp.zeros(channels), "var": jnp.ones(channels)},
    }
    run = jax.jit(lambda variables, x: layer.apply(variables, x, train=train, mutable=mutable))
    return run(variables, x)


def normalised(x, axes):
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)


@pytest.mark.parametrize("space", [(), (7,), (3, 4), (2, 3, 2)])
def test_global_equals_numpy_in_every_rank(space):
    x = data((8, *space, 5))
    y, new = apply("global", jnp.asarray(x))
    np.testing.assert_allclose(y, normalised(x, tuple(range(x.ndim - 1))), atol=2e-6)
    assert set(new) == {"batch_stats", "batch_moments"}


@pytest.mark.parametrize("mode", ["global", "group:8", "group:4", "group:2", "group:1"])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_pooled_statistics_equal_numpy_over_the_whole_batch(mode, mean):
    x = data(mean=mean)
    _, new = apply(mode, jnp.asarray(x))
    want_mean = x.mean((0, 1, 2), dtype=np.float64)
    want_var = x.var((0, 1, 2), dtype=np.float64)
    moments, stats = new["batch_moments"], new["batch_stats"]
    np.testing.assert_allclose(moments["mean"], want_mean, rtol=1e-6, atol=1e-6)
    # One pass loses digits in the square of mean / spread until the running mean is near the mean.
    np.testing.assert_allclose(moments["var"], want_var, rtol=1e-6 if mean == 0 else 1e-4)
    np.testing.assert_allclose(stats["mean"], 0.1 * want_mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * want_var, rtol=1e-6 if mean == 0 else 1e-4)


def test_variance_is_exact_once_the_running_mean_is_near():
    x = data(mean=3000.0)
    stats = {"mean": jnp.full(5, 2999.0), "var": jnp.ones(5)}
    _, new = apply("global", jnp.asarray(x), stats)
    np.testing.assert_allclose(
        new["batch_moments"]["var"], x.var((0, 1, 2), dtype=np.float64), rtol=1e-5
    )


def test_groups_are_consecutive_rows():
    x = data()
    y, _ = apply("group:2", jnp.asarray(x))
    want = normalised(x.reshape(4, 2, 3, 3, 5), (1, 2, 3)).reshape(x.shape)
    np.testing.assert_allclose(y, want, atol=3e-6)


def test_group_of_the_batch_is_global():
    x = jnp.asarray(data())
    np.testing.assert_array_equal(apply("group:8", x)[0], apply("global", x)[0])


@pytest.mark.parametrize("mode", ["global", "group:2", "frozen"])
def test_evaluation_uses_and_keeps_the_running_statistics(mode):
    x = data()
    stats = {"mean": jnp.arange(5.0), "var": jnp.arange(1.0, 6.0)}
    y, new = apply(mode, jnp.asarray(x), stats, train=False)
    want = (x - np.arange(5.0)) / np.sqrt(np.arange(1.0, 6.0) + EPSILON)
    np.testing.assert_allclose(y, want, atol=1e-5)
    assert not new.get("batch_moments")
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], stats)


def test_frozen_trains_as_it_evaluates():
    x = jnp.asarray(data())
    stats = {"mean": jnp.arange(5.0), "var": jnp.arange(1.0, 6.0)}
    trained, new = apply("frozen", x, stats)
    np.testing.assert_array_equal(trained, apply("frozen", x, stats, train=False)[0])
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], stats)
    assert not new.get("batch_moments")


def test_immutable_statistics_are_left_alone():
    y, new = apply("global", jnp.asarray(data()), mutable=("batch_moments",))
    assert set(new) == {"batch_moments"}
    assert np.isfinite(y).all()


@pytest.mark.parametrize("mode", ["global", "group:4"])
def test_gradient_equals_finite_differences(mode):
    x = jnp.asarray(data((4, 3, 2)))
    weights = jax.random.normal(jax.random.key(1), x.shape)
    layer = BatchNorm(mode=mode)
    params = {"scale": jnp.array([1.5, -0.5]), "bias": jnp.array([0.3, 0.1])}
    stats = {"mean": jnp.ones(2), "var": jnp.ones(2)}

    @jax.jit
    def f(x, params):
        y, _ = layer.apply(
            {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.sin(y) * weights)

    check_grads(f, (x, params), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_second_derivatives_are_those_of_the_plain_formula():
    x, scale = jnp.asarray(data((4, 3, 2))), jnp.array([1.5, -0.5])
    layer, stats = BatchNorm(), {"mean": jnp.ones(2), "var": jnp.ones(2)}

    def ours(scale, x):
        variables = {"params": {"scale": scale, "bias": jnp.zeros(2)}, "batch_stats": stats}
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    def plain(scale, x):
        mean, var = (f(axis=(0, 1), keepdims=True) for f in (x.mean, x.var))
        return (x - mean) / jnp.sqrt(var + EPSILON) * scale[None, None]

    def twice(function):
        grad = jax.grad(lambda scale, x: jnp.sum(jnp.sin(function(scale, x)) * jnp.cos(x)), (0, 1))
        return jax.jit(jax.jvp, static_argnums=0)(grad, (scale, x), (jnp.sin(scale), jnp.cos(3 * x)))

    for found, want in zip(jax.tree.leaves(twice(ours)), jax.tree.leaves(twice(plain)), strict=True):
        np.testing.assert_allclose(found, want, atol=2e-5)


def test_compute_type():
    x = jnp.asarray(data()).astype(jnp.bfloat16)
    y, new = apply("global", x, dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("float32")}


def test_group_must_divide_the_batch():
    with pytest.raises(UserError, match="needs a batch size that 3 divides, got 8"):
        apply("group:3", jnp.asarray(data()))


@pytest.mark.parametrize("mode", ["local", "group", "group:0", "group:-1", "group:x", ""])
def test_unknown_mode(mode):
    with pytest.raises(UserError, match="'global', 'group:K'"):
        group_size(mode)


def test_unknown_norm():
    with pytest.raises(UserError, match="unknown norm 'weight'.*batch, group, instance, layer, none"):
        make_norm("weight", "global", jnp.float32)


@pytest.mark.parametrize("mode", ["global", "group:2", "group:1"])
def test_same_on_every_device_count(mode):
    if len(jax.devices()) < 8:
        pytest.skip(
            "needs 8 simulated devices (XLA_FLAGS=--xla_force_host_platform_device_count=8)"
        )
    x = data((16, 4, 4, 8))
    layer = BatchNorm(mode=mode)
    variables = layer.init(jax.random.key(0), jnp.asarray(x[:1]), train=False)

    @jax.jit
    def step(variables, x):
        def loss(params):
            y, new = layer.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(y)) / x.shape[0], (y, new["batch_stats"])

        grads, (y, stats) = jax.grad(loss, has_aux=True)(variables["params"])
        return y, stats, grads

    results = []
    for count in (1, 2, 4, 8):
        mesh = jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=jax.devices()[:count])
        sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
        everywhere = jax.device_put(variables, NamedSharding(mesh, P()))
        state = everywhere
        for _ in range(2):
            y, stats, grads = jax.block_until_ready(step(state, sharded))
            state = {**state, "batch_stats": stats}
        results.append(jax.device_get((y, stats, grads)))
    for other in results[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), results[0], other
        )


@pytest.mark.parametrize(("channels", "groups"), [(8, 4), (6, 4), (5, 32)])
def test_group_norm_equals_numpy(channels, groups):
    x = data((3, 4, 4, channels))
    layer = GroupNorm(groups=groups)
    y, variables = layer.init_with_output(jax.random.key(0), jnp.asarray(x), train=True)
    real = np.gcd(channels, groups)
    want = normalised(x.reshape(3, 16, real, -1), (1, 3)).reshape(x.shape)
    np.testing.assert_allclose(y, want, atol=3e-6)
    assert set(variables) == {"params"}
