"""What an output rests on: Grad-CAM, occlusion, and the effective receptive field."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnn.inspect.network import Layer, Network, Trace

EFFECTIVE = (
    1 - 0.9545
)  # of the largest gradient: Luo et al. count what is above two standard deviations


def grad_cam(
    network: Network,
    x: Float[np.ndarray, "1 *space c"],
    target: int,
    layers: Sequence[str],
    output: str = "logits",
) -> dict[str, Float[np.ndarray, "..."]]:
    """Where each layer holds evidence for class `target`, [*space of the layer], not negative.

    Selvaraju et al. 2016 (arXiv 1610.02391), section 3: channels weighted by the mean over space of the gradient
    of the class's logit, summed, negative parts cut.
    """
    trace = network.trace(x.shape)
    logits = trace.outputs[output]

    @jax.jit
    def values_and_gradients(variables: Any, x: Array, moved: dict[str, Array]) -> tuple[Any, Any]:
        def logit(moved: dict[str, Array]) -> tuple[Array, Any]:
            found = trace.run(variables, x, [logits, *layers], plus=moved)
            return found[logits][0, target].astype(jnp.float32), found

        (_, found), gradients = jax.value_and_grad(logit, has_aux=True)(moved)
        return found, gradients

    nothing = {name: np.zeros((1, *trace.layers[name].shape), np.float32) for name in layers}
    found, gradients = jax.device_get(values_and_gradients(network.variables, x, nothing))
    maps = {}
    for name in layers:
        gradient = np.asarray(gradients[name][0], np.float32)
        weights = gradient.mean(axis=tuple(range(gradient.ndim - 1)))
        maps[name] = np.maximum(np.asarray(found[name][0], np.float32) @ weights, 0)
    return maps


def over_input(
    values: Float[np.ndarray, "..."], layer: Layer, size: Sequence[int]
) -> Float[np.ndarray, "..."]:
    """A map of a layer laid over the input: each position at the centre of its receptive field, linear between.

    Args:
      values: [*space of the layer].
      size: [*space] of the input.
    """
    for axis, (reach, wanted) in enumerate(zip(layer.reach, size, strict=True)):
        centres = reach.start + reach.jump * np.arange(values.shape[axis])
        rows = [np.interp(np.arange(wanted), centres, one) for one in np.eye(values.shape[axis])]
        values = np.moveaxis(np.tensordot(values, np.stack(rows), (axis, 0)), -1, axis)
    return values


def occlusion(
    score: Callable[[Float[np.ndarray, "n *space c"]], Float[np.ndarray, " n"]],
    x: Float[np.ndarray, "1 *space c"],
    window: Sequence[int],
    step: Sequence[int],
    fill: Float[np.ndarray, " c"],
    batch: int = 16,
) -> Float[np.ndarray, "..."]:
    """How much a score falls when a window of the input is covered, [*space]: the mean of all windows over a place.

    Zeiler & Fergus 2013 (arXiv 1311.2901), section 4.2.

    Args:
      score: of many inputs at once; always called with `batch` of them.
      window, step: one number per axis; the last window of an axis ends with it.
      fill: what covers, per channel.
    """
    space = x.shape[1:-1]
    starts = [
        sorted({*range(0, size - wide + 1, stride), size - wide})
        for size, wide, stride in zip(space, window, step, strict=True)
    ]
    places = [
        (0, *(slice(s, s + w) for s, w in zip(corner, window, strict=True)))
        for corner in product(*starts)
    ]
    whole = score(np.repeat(x, batch, axis=0))[0]
    falls, counts = np.zeros(space), np.zeros(space)
    for first in range(0, len(places), batch):
        part = places[first : first + batch]
        covered = np.repeat(x, batch, axis=0)
        for i, place in enumerate(part):
            covered[(i, *place[1:])] = fill
        for place, value in zip(part, score(covered), strict=False):
            falls[place[1:]] += whole - value
            counts[place[1:]] += 1
    return falls / np.maximum(counts, 1)


def occlusion_windows(space: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(window, step) with which an input of this size takes a hundred or some more passes."""
    share = 6 if len(space) < 3 else 4
    window = tuple(max(2, round(size / share)) if size > 1 else 1 for size in space)
    step = tuple(max(1, wide // 2) for wide in window) if len(space) < 3 else window
    return window, step


def effective_field(
    network: Network,
    x: Float[np.ndarray, "1 *space c"],
    layers: Sequence[str],
    samples: int = 8,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, "..."]]:
    """|d(middle position of a layer, all its channels) / d input|, [*space], largest value 1.

    Luo et al. 2016 (arXiv 1701.04128). ReLUs make a single gradient patchy, so it is the mean over `samples` copies
    of the input with noise of half its own spread.
    """
    trace = network.trace((samples, *x.shape[1:]))
    noise = np.random.default_rng(seed).normal(size=(samples, *x.shape[1:])) * x.std() / 2
    noisy = (x + noise).astype(np.float32)
    found = {}
    for name in layers:
        gradient = np.asarray(
            jax.device_get(_middle_gradient(trace, name)(network.variables, noisy))
        )
        size = np.abs(gradient).mean(axis=0).sum(axis=-1)
        found[name] = size / max(size.max(), np.finfo(np.float32).tiny)
    return found


def _middle_gradient(trace: Trace, name: str) -> Callable[..., Array]:
    middle = tuple(size // 2 for size in trace.layers[name].shape[:-1])

    def total(x: Array, variables: Any) -> Array:
        value = trace.run(variables, x, [name], before=[name])
        # Of a ReLU its input: where the unit is off, the gradient behind it says nothing.
        value = value.get(f"{name}:in", value[name])
        return value[(slice(None), *middle)].astype(jnp.float32).sum()

    return jax.jit(lambda variables, x: jax.grad(total)(x, variables))


def effective_size(field: Float[np.ndarray, "..."]) -> float:
    """Side of the square (cube) with as many positions as have at least 4.55 % of the largest gradient."""
    return (
        float((field >= EFFECTIVE * field.max()).sum() ** (1 / field.ndim))
        if field.max() > 0
        else math.nan
    )
