"""What a network's layers do on given inputs: spread, sparsity, dead units, and which inputs excite a channel most."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnn.inspect.network import RECTIFIERS, Network, Trace


class Activity(NamedTuple):
    """Of one layer over all examples and positions.

    Attributes:
      mean, std, low, high: of the values.
      zero: share of values that are exactly 0.
      dead: channels of a ReLU that were 0 everywhere; None for other layers.
    """

    mean: float
    std: float
    low: float
    high: float
    zero: float
    dead: int | None


def activity(
    network: Network, inputs: Float[np.ndarray, "n *space c"], batch: int = 16
) -> dict[str, Activity]:
    """Statistics of every layer over the inputs, {name: Activity}; each example counts once."""
    size = min(batch, len(inputs))
    trace = network.trace((size, *inputs.shape[1:]))
    step = jax.jit(lambda variables, x, valid: _moments(trace, variables, x, valid))
    parts = []
    for first in range(0, len(inputs), size):
        rows = inputs[first : first + size]
        valid = np.arange(size) < len(rows)
        padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])
        parts.append(jax.device_get(step(network.variables, padded, valid)))
    found = {}
    for name, layer in trace.layers.items():
        rows = [part[name] for part in parts]
        count = sum(float(row["count"]) for row in rows)
        mean = sum(float(row["sum"]) for row in rows) / count
        square = sum(
            float(row["centred"]) + float(row["count"]) * (float(row["mean"]) - mean) ** 2
            for row in rows
        )
        top = np.max([row["top"] for row in rows], axis=0)
        found[name] = Activity(
            mean,
            (square / count) ** 0.5,
            min(float(row["low"]) for row in rows),
            float(top.max()),
            sum(float(row["zeros"]) for row in rows) / count,
            int((top <= 0).sum()) if layer.kind in RECTIFIERS else None,
        )
    return found


def _moments(trace: Trace, variables: Any, x: Array, valid: Array) -> dict[str, dict[str, Array]]:
    found = {}
    for name, value in trace.run(variables, x, list(trace.layers)).items():
        value = value.astype(jnp.float32)
        mask = jnp.broadcast_to(valid.reshape(-1, *(1,) * (value.ndim - 1)), value.shape)
        count = mask.sum(dtype=jnp.float32)
        mean = jnp.where(mask, value, 0).sum() / count
        space = tuple(range(value.ndim - 1))
        found[name] = {
            "count": count,
            "mean": mean,
            "sum": mean * count,
            "centred": jnp.where(mask, jnp.square(value - mean), 0).sum(),
            "zeros": (mask & (value == 0)).sum(dtype=jnp.float32),
            "low": jnp.where(mask, value, jnp.inf).min(),
            "top": jnp.where(mask, value, -jnp.inf).max(axis=space),
        }
    return found


def most_active(value: Float[np.ndarray, "... c"], count: int) -> list[int]:
    """The channels with the highest single values, highest first."""
    top = value.reshape(-1, value.shape[-1]).max(axis=0)
    return [int(c) for c in np.argsort(-top, kind="stable")[:count]]


class Patch(NamedTuple):
    """Where one input excites a channel most.

    Attributes:
      index: of the input.
      value: of the channel there.
      window: slices of the input's axes: the position's receptive field, cut to the input.
    """

    index: int
    value: float
    window: tuple[slice, ...]


def top_patches(
    network: Network,
    inputs: Float[np.ndarray, "n *space c"],
    name: str,
    channels: Sequence[int],
    count: int = 3,
    batch: int = 16,
) -> dict[int, list[Patch]]:
    """For each channel of a layer the `count` inputs that excite it most, and where (Zeiler & Fergus 2013)."""
    size = min(batch, len(inputs))
    trace = network.trace((size, *inputs.shape[1:]))
    layer, wanted = trace.layers[name], np.asarray(channels)

    @jax.jit
    def step(variables: Any, x: Array) -> tuple[Array, Array]:
        flat = trace.run(variables, x, [name])[name].reshape(size, -1, layer.channels)[..., wanted]
        return flat.max(axis=1), flat.argmax(axis=1)

    best, where = [], []
    for first in range(0, len(inputs), size):
        rows = inputs[first : first + size]
        padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])
        found = jax.device_get(step(network.variables, padded))
        best.append(found[0][: len(rows)])
        where.append(found[1][: len(rows)])
    best, where = np.concatenate(best), np.concatenate(where)
    patches = {}
    for column, channel in enumerate(channels):
        rows = np.argsort(-best[:, column], kind="stable")[:count]
        patches[channel] = [
            Patch(
                int(i),
                float(best[i, column]),
                _window(layer, int(where[i, column]), inputs.shape[1:-1]),
            )
            for i in rows
        ]
    return patches


def _window(layer: Any, position: int, space: Sequence[int]) -> tuple[slice, ...]:
    places = np.unravel_index(position, layer.shape[:-1])
    window = []
    for reach, place, size in zip(layer.reach, places, space, strict=True):
        low, high = (
            np.clip(edge + reach.jump * place, 0, size - 1) for edge in (reach.low, reach.high)
        )
        window.append(slice(int(low), int(high) + 1))
    return tuple(window)
