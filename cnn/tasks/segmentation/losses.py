"""Losses of dense prediction: one number per example, float32, from logits [b *space k] and masks of any rank.

Pixels with the label IGNORE count in none of them; an example that holds nothing else has loss 0.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from cnn.errors import UserError, unknown
from cnn.features import IGNORE
from cnn.shapes import PerExample
from cnn.tasks import losses

Logits = Float[Array, "b *space k"]
Mask = Integer[Array, "b *space"]
PerPixel = Float[Array, "b *space"]
SMOOTH = 1.0  # pixels added to both sides of a ratio of areas


class Truth(NamedTuple):
    """A mask as the losses want it.

    Attributes:
      mask: class ids, or IGNORE.
      one_hot: zeros where the pixel is ignored.
      counted: where it is not.
      weight: of each pixel, its class's; 0 where ignored.
    """

    mask: Mask
    one_hot: Float[Array, "b *space k"]
    counted: Bool[Array, "b *space"]
    weight: PerPixel


def truth(mask: Mask, classes: int, class_weights: tuple[float, ...] = ()) -> Truth:
    """The mask taken apart; `class_weights` holds a number per class, () is 1 for all."""
    one_hot = jax.nn.one_hot(mask, classes)
    counted = mask != IGNORE
    weight = counted.astype(jnp.float32)
    if class_weights:
        weight = one_hot @ np.asarray(class_weights, np.float32)
    return Truth(mask, one_hot, counted, weight)


def weighted_mean(values: PerPixel, weight: PerPixel) -> PerExample:
    """sum(weight * values) / sum(weight) of each example, 0 where nothing weighs."""
    axes = tuple(range(1, values.ndim))
    total = jnp.sum(weight, axis=axes)
    return jnp.sum(values * weight, axis=axes) / jnp.where(total > 0, total, 1.0)


def cross_entropy(logits: Logits, true: Truth, options: Any) -> PerExample:
    """Cross entropy in nats: the mean over pixels, weighted by their classes."""
    return weighted_mean(losses.softmax_cross_entropy(logits, true.one_hot), true.weight)


def focal(logits: Logits, true: Truth, options: Any) -> PerExample:
    """The mean over pixels of the focal loss (Lin et al. 2017, arXiv 1708.02002), gamma `focal_gamma`."""
    return weighted_mean(losses.focal(logits, true.one_hot, options.focal_gamma), true.weight)


def boundary(logits: Logits, true: Truth, options: Any) -> PerExample:
    """Cross entropy whose pixels weigh 1 + `boundary_weight` near a change of class, after Ronneberger et al. 2015
    (arXiv 1505.04597, equation 2) without its distances between cells.
    """
    near = near_boundary(true.mask, options.boundary_width)
    weight = true.weight * (1 + options.boundary_weight * near.astype(jnp.float32))
    return weighted_mean(losses.softmax_cross_entropy(logits, true.one_hot), weight)


def near_boundary(mask: Mask, width: int) -> Bool[Array, "b *space"]:
    """Where a pixel of another class lies within `width` pixels along every axis; ignored pixels are of no class."""
    window = (1, *(2 * width + 1,) * (mask.ndim - 1))
    label, unknown_here = mask.astype(jnp.int32), mask == IGNORE

    def extreme(none: int, combine: Callable[..., Array]) -> Array:
        start = np.int32(none)
        values = jnp.where(unknown_here, start, label)
        return jax.lax.reduce_window(values, start, combine, window, (1,) * mask.ndim, "SAME")

    return extreme(-1, jax.lax.max) > extreme(IGNORE, jax.lax.min)


def areas(
    logits: Logits, true: Truth, background: bool
) -> tuple[Float[Array, "b c"], Float[Array, "b c"], Float[Array, "b c"]]:
    """(overlap, said, true) soft areas in pixels of each class, without the background where there is one."""
    first, axes = int(background), tuple(range(1, logits.ndim - 1))
    said = (jax.nn.softmax(logits) * true.counted[..., None])[..., first:]
    wanted = true.one_hot[..., first:]
    return jnp.sum(said * wanted, axes), jnp.sum(said, axes), jnp.sum(wanted, axes)


def over_present(
    values: Float[Array, "b c"], said: Float[Array, "b c"], wanted: Float[Array, "b c"], true: Truth
) -> PerExample:
    """The mean of each example's values over the classes that it holds; where it holds none, the share of its pixels
    that are said to be of one. Of an absent class the ratio of areas would only tell that no probability is quite 0.
    """
    there = wanted > 0
    count, pixels = jnp.sum(there, axis=-1), jnp.sum(true.counted, axis=tuple(range(1, true.mask.ndim)))
    mean = jnp.sum(jnp.where(there, values, 0), axis=-1) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, jnp.sum(said, axis=-1) / jnp.maximum(pixels, 1))


def dice(logits: Logits, true: Truth, options: Any) -> PerExample:
    """1 - soft Dice, the mean over the classes of each example (see `over_present`); of probabilities, not of their
    squares as in Milletari et al. 2016 (arXiv 1606.04797).
    """
    overlap, said, wanted = areas(logits, true, options.background)
    return over_present(1 - (2 * overlap + SMOOTH) / (said + wanted + SMOOTH), said, wanted, true)


def tversky(logits: Logits, true: Truth, options: Any) -> PerExample:
    """1 - overlap / (overlap + alpha * wrongly said + beta * missed), the mean as for Dice (Salehi et al. 2017,
    arXiv 1706.05721, equation 3). alpha = beta = 1/2 is Dice.
    """
    overlap, said, wanted = areas(logits, true, options.background)
    wrong, missed = options.tversky_alpha * (said - overlap), options.tversky_beta * (wanted - overlap)
    half = SMOOTH / 2  # as much as Dice has: its ratio is this one with both sides doubled
    return over_present(1 - (overlap + half) / (overlap + wrong + missed + half), said, wanted, true)


TERMS: Mapping[str, Callable[[Any, Truth, Any], Any]] = {
    "ce": cross_entropy,
    "dice": dice,
    "focal": focal,
    "tversky": tversky,
    "boundary": boundary,
}


def terms(text: str) -> tuple[tuple[float, str], ...]:
    """'ce+0.5*dice' -> ((1.0, 'ce'), (0.5, 'dice')).

    Raises:
      UserError: an unknown term, or a factor that is no positive number.
    """
    found = []
    for part in text.replace(" ", "").split("+"):
        factor, star, name = part.rpartition("*")
        if name not in TERMS:
            raise unknown("term of task.loss", name, TERMS)
        try:
            value = float(factor) if star else 1.0
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise UserError(f"task.loss is '{text}'; a factor must be a number above 0, as in 'ce+0.5*dice'")
        found.append((value, name))
    return tuple(found)


def at_resolution(mask: Mask, space: tuple[int, ...]) -> Integer[Array, "b *size"]:
    """The mask at another resolution: of each pixel the label at its centre, for auxiliary outputs that are coarser."""
    for axis, (size, have) in enumerate(zip(space, mask.shape[1:], strict=True), 1):
        if size != have:
            mask = jnp.take(mask, (np.arange(size) * 2 + 1) * have // (2 * size), axis=axis)
    return mask
