"""Checksums of arrays, the same wherever an array lives and however it is split.

Orbax loads a flipped byte without complaint, so checkpoints carry these and check them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn import tree

_WORDS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint32"}  # by item size


def sums_on_host(x: np.ndarray) -> np.ndarray:
    """uint32 [2]: two position-weighted sums of an array's words, modulo 2^32.

    Integer sums do not depend on order, so they are equal for every sharding and device count. The
    weights are odd, so any change of one word changes the sum.
    """
    x = np.ascontiguousarray(x).reshape(-1).view(_WORDS[x.dtype.itemsize]).astype(np.uint32)
    index = np.arange(x.size, dtype=np.uint32)
    mixed = (x ^ (x >> 15)) * np.uint32(2654435761)
    words = [x * (2 * index + 1), mixed * (2 * (index ^ (index >> 7)) + 1)]
    return np.stack([word.sum(dtype=np.uint32) for word in words])


@jax.jit
def sums_on_device(x: jax.Array) -> jax.Array:
    """`sums_on_host` where the data are; compiled once per shape."""
    word = _WORDS[x.dtype.itemsize]
    x = x.astype(jnp.uint8) if x.dtype == bool else jax.lax.bitcast_convert_type(x, jnp.dtype(word))
    x = x.astype(jnp.uint32)
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, count in enumerate(x.shape):
        index = index * jnp.uint32(count) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    mixed = (x ^ (x >> 15)) * jnp.uint32(2654435761)
    words = [x * (2 * index + 1), mixed * (2 * (index ^ (index >> 7)) + 1)]
    return jnp.stack([word.sum(dtype=jnp.uint32) for word in words])


def _sums(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Compiling costs more than summing what is small and in the host's memory already."""
    if isinstance(x, np.ndarray):
        return sums_on_host(x)
    if x.is_fully_replicated:  # this process has all of it, whoever else does
        x = x.addressable_data(0)
    on_host = x.is_fully_addressable and next(iter(x.devices())).platform == "cpu"
    return sums_on_host(np.asarray(x)) if on_host and x.size < 1 << 16 else sums_on_device(x)


def describe(arrays: Any) -> dict[str, list]:
    """{name: [shape, dtype, checksum]} of every array of a tree."""
    flat = tree.flatten(arrays)
    sums = jax.device_get({name: _sums(x) for name, x in flat.items()})
    return {
        name: [list(x.shape), str(x.dtype), "{:08x}{:08x}".format(*sums[name].tolist())]
        for name, x in flat.items()
    }
