"""An input made to excite one channel: gradient ascent on the picture (Erhan et al. 2009; Olah et al. 2017)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnn.inspect.network import Network
from cnn.inspect.receptive import Number

MANY = 3000  # positions: above, half the steps must do
LARGEST = 96  # positions of an axis: deeper units see more, but a step's time grows with the square


class Excited(NamedTuple):
    """What gradient ascent found for some channels of a layer.

    Attributes:
      inputs: [n, *space, c], as the network takes them.
      before, after: the unit's value (of a ReLU its input) on the first noise and on the result, [n].
    """

    inputs: Float[np.ndarray, "n *space c"]
    before: Float[np.ndarray, " n"]
    after: Float[np.ndarray, " n"]


def excite(
    network: Network,
    name: str,
    channels: Sequence[int],
    shape: Sequence[int],
    limits: tuple[np.ndarray, np.ndarray],
    *,
    steps: int = 0,
    decay: float = 0.02,
    blur_every: int = 4,
    seed: int = 0,
) -> Excited:
    """Ascends the gradient of the middle unit of each channel, from faint noise in the middle of `limits`.

    Regularised simply: every step shrinks the picture a little towards that middle, every few steps blur it
    slightly, and values stay within `limits`, so that the picture is one that the network could be given.

    Args:
      shape: [*space, c] of the network's usual input; the picture is as large as what the unit sees, at most that.
      limits: least and largest value per channel of the input, [c] each.
      steps: 0 takes 64, or 32 on a large picture.
    """
    layer = network.trace((1, *shape)).layers[name]
    strides = max(max(x.strides) for x in network.trace((1, *shape)).layers.values() if x.spatial)
    canvas = [
        _side(field, size, int(strides))
        for field, size in zip(layer.field, shape[:-1], strict=True)
    ]
    network = network.headless  # whose flattening layers would fix the size
    trace = network.trace((len(channels), *canvas, shape[-1]))
    steps = steps or (64 if math.prod(canvas) <= MANY else 32)
    middle = tuple(size // 2 for size in trace.layers[name].shape[:-1])
    low, high = (np.broadcast_to(limit, shape[-1:]).astype(np.float32) for limit in limits)
    centre, spread = (low + high) / 2, (high - low) / 2
    rows, wanted = np.arange(len(channels)), np.asarray(channels)

    def units(z: Array, variables: Any) -> Array:
        x = jnp.clip(z, -1, 1) * spread.reshape((1,) * (z.ndim - 1) + (-1,))
        value = trace.run(
            variables, x + centre.reshape((1,) * (x.ndim - 1) + (-1,)), [name], before=[name]
        )
        value = value.get(f"{name}:in", value[name])
        return value[(slice(None), *middle)].astype(jnp.float32)[rows, wanted]

    @jax.jit
    def step(variables: Any, z: Array, smooth: Array) -> Array:
        gradient = jax.grad(lambda z: units(z, variables).sum())(z)
        space = tuple(range(1, z.ndim))
        scale = jnp.sqrt(jnp.square(gradient).mean(axis=space, keepdims=True))
        z = z * (1 - decay) + 0.1 * gradient / jnp.maximum(scale, 1e-12)
        return jnp.clip(jnp.where(smooth, 0.5 * z + 0.5 * _blurred(z), z), -1, 1)

    measure = jax.jit(lambda variables, z: units(z, variables))
    z = np.random.default_rng(seed).normal(size=(len(channels), *canvas, shape[-1])) * 0.05
    z = jnp.asarray(z, jnp.float32)
    before = measure(network.variables, z)
    for count in range(
        1, steps + 1
    ):  # not in a loop of XLA: convolution gradients are slow there on CPUs
        z = step(
            network.variables,
            z,
            np.asarray(blur_every > 0 and count % blur_every == 0 and count < steps),
        )
    after = measure(network.variables, z)
    return Excited(np.asarray(z) * spread + centre, np.asarray(before), np.asarray(after))


def _side(field: Number, size: int, stride: int) -> int:
    wanted = min(field + stride, max(size, stride), max(LARGEST, stride))
    return (
        int(-(-wanted // stride) * stride)
        if wanted < size
        else size
        if size <= LARGEST
        else LARGEST
    )


def _blurred(z: Array) -> Array:
    """One pass of [1 2 1] / 4 on every axis."""
    for axis in range(1, z.ndim - 1):
        if z.shape[axis] > 1:
            moved = jnp.moveaxis(z, axis, 1)
            flat = moved.reshape(moved.shape[0], moved.shape[1], -1)
            wide = jnp.pad(flat, ((0, 0), (1, 1), (0, 0)), mode="edge")
            flat = (wide[:, :-2] + 2 * flat + wide[:, 2:]) / 4
            z = jnp.moveaxis(flat.reshape(moved.shape), 1, axis)
    return z
