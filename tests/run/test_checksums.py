"""Checksums: the same on host and devices, and different after any damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cnn.run import checksums
from cnn.run.checksums import describe


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "int8", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 4, 7), (0,), (8, 16)])
def test_checksums_are_the_same_on_host_and_devices(dtype, shape):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape) * 50).astype(dtype)
    wanted = checksums.sums_on_host(np.asarray(x))
    np.testing.assert_array_equal(checksums.sums_on_device(x), wanted)
    if shape == (8, 16):
        mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
        split = jax.device_put(x, NamedSharding(mesh, P(None, "data")))
        np.testing.assert_array_equal(checksums.sums_on_device(split), wanted)
        assert describe({"x": split}) == describe({"x": x})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_checksums_see_every_bit_and_every_swap(dtype):
    x = np.asarray(jnp.arange(1, 13).astype(dtype))
    right = tuple(checksums.sums_on_host(x))
    for position in range(x.nbytes):
        for bit in range(8):
            data = bytearray(x.tobytes())
            data[position] ^= 1 << bit
            assert tuple(checksums.sums_on_host(np.frombuffer(bytes(data), x.dtype))) != right
    for i in range(len(x) - 1):
        swapped = x.copy()
        swapped[[i, i + 1]] = swapped[[i + 1, i]]
        assert tuple(checksums.sums_on_host(swapped)) != right
