"""Convolutions over eight simulated devices: the batch stays split, kernels are gathered, sums are right."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn.layers.conv import conv
from cnn.native import onednn

P = PartitionSpec
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((16, 9, 9, 16)), jnp.float32)
KERNEL = jnp.asarray(0.1 * RNG.standard_normal((3, 3, 16, 16)), jnp.float32)
GROUPED = KERNEL[:, :, :4]


def loss(kernel, x):
    y = jnp.tanh(conv(x, kernel, 2))
    return jnp.square(conv(conv(y, GROUPED, groups=4), kernel)).mean()


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))


@pytest.fixture(scope="module")
def want():
    return jax.value_and_grad(loss, (0, 1))(KERNEL, X)


def close(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernel_spec", [P(), P(None, None, None, "data"), P(None, None, "data")], ids=str)
def test_a_split_batch_stays_split(mesh, want, kernel_spec):
    x = jax.device_put(X, NamedSharding(mesh, P("data")))
    kernel = jax.device_put(KERNEL, NamedSharding(mesh, kernel_spec))
    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    text = step.lower(kernel, x).compile().as_text()
    if onednn.enabled():  # XLA's partitioner gathers the activations of its own grouped gradients
        gathered = re.findall(r"(f32\[[\d,]*\])\S* all-gather\(", text)
        assert set(gathered) <= {"f32[3,3,16,16]"}, gathered  # a split kernel, never activations
        assert bool(gathered) == (kernel_spec != P())
        assert not re.findall(r" (all-to-all|collective-permute)\(", text)
    assert re.findall(r" all-reduce\(", text)
    got = step(kernel, x)
    close(got, want)
    assert got[1][1].sharding.spec == P("data")


@pytest.mark.parametrize("spec", [P(None, "data"), P(None, None, None, "data")], ids=str)
def test_other_splits_are_gathered_and_right(mesh, want, spec):
    x = jnp.asarray(RNG.standard_normal((4, 8, 8, 16)), jnp.float32)
    split = jax.device_put(x, NamedSharding(mesh, spec))
    close(jax.jit(conv)(split, KERNEL), conv(x, KERNEL))


def test_a_batch_that_the_devices_do_not_divide(mesh):
    x = jax.device_put(X, NamedSharding(mesh, P("data")))
    step = jax.jit(jax.value_and_grad(lambda kernel, x: loss(kernel, x[:13])))
    close(step(KERNEL, x), jax.value_and_grad(loss)(KERNEL, X[:13]))


def test_two_mesh_axes():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    x = jax.device_put(X, NamedSharding(mesh, P(("data", "model"))))
    step = jax.jit(jax.value_and_grad(loss))
    close(step(KERNEL, x), jax.value_and_grad(loss)(KERNEL, X))


def test_in_shard_map(mesh, want):
    specs = {"in_specs": (P(), P("data")), "out_specs": P()}
    total = jax.shard_map(lambda k, x: jax.lax.psum(loss(k, x), "data") / 8, mesh=mesh, **specs)
    close(jax.jit(jax.value_and_grad(total, (0, 1)))(KERNEL, X), want)


def test_vmap_over_models(mesh):
    kernels = jnp.stack([KERNEL, 2 * KERNEL])
    x = jax.device_put(X, NamedSharding(mesh, P("data")))
    got = jax.jit(jax.vmap(jax.grad(loss), (0, None)))(kernels, x)
    close(got, np.stack([jax.grad(loss)(kernel, X) for kernel in kernels]))
