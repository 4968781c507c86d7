"""Mixup and CutMix on the device: examples of a batch blended or pasted into each other.

Both pair row i with row i - 1 of the global batch. The data order is already a random permutation, so a shift
is as random as a second one, and over a sharded batch it moves one row per device instead of all of them.
Strengths are drawn per example.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


def partner(x: Float[Array, " b *rest"]) -> Float[Array, " b *rest"]:
    """Row i of the answer is row i - 1 of `x`; row 0 is the last one."""
    return jnp.roll(x, 1, axis=0)


def blend(
    x: Float[Array, " b *rest"], share: Float[Array, " b"], other: Float[Array, " b *rest"]
) -> Float[Array, " b *rest"]:
    """share * x + (1 - share) * other, with one share per row."""
    share = share.reshape(-1, *(1,) * (x.ndim - 1))
    return share * x + (1 - share) * other


def mixup(
    x: Float[Array, "b *space c"], rng: Key[Array, ""], alpha: float
) -> tuple[Float[Array, "b *space c"], Float[Array, " b"]]:
    """Blends each example with its partner (Zhang et al. 2018, arXiv 1710.09412).

    Returns:
      The mixed examples, and the share of each one's own label, ~ Beta(alpha, alpha).
    """
    share = jax.random.beta(rng, alpha, alpha, (x.shape[0],))
    return blend(x, share, partner(x)), share


def cutmix(
    x: Float[Array, "b *space c"], rng: Key[Array, ""], alpha: float
) -> tuple[Float[Array, "b *space c"], Float[Array, " b"]]:
    """Pastes a box of the partner into each example (Yun et al. 2019, arXiv 1905.04899).

    The box has the proportions of the input and the volume 1 - Beta(alpha, alpha) of it, around a uniform
    centre, clipped at the border. Any number of spatial axes: an interval of a series, a box of a volume.

    Returns:
      The mixed examples, and the share of each one's own label: the exact share of its own pixels.
    """
    share_rng, centre_rng = jax.random.split(rng)
    batch, space = x.shape[0], x.shape[1:-1]
    side = (1 - jax.random.beta(share_rng, alpha, alpha, (batch,))) ** (1 / len(space))
    centres = jax.random.uniform(centre_rng, (len(space), batch))
    inside = jnp.ones((batch, *(1,) * len(space)), bool)
    for axis, size in enumerate(space):
        inside = inside & _interval(centres[axis], side, size, axis, len(space))
    own = 1 - jnp.mean(inside.astype(jnp.float32), axis=tuple(range(1, inside.ndim)))
    return jnp.where(inside[..., None], partner(x), x), own


def _interval(
    centre: Float[Array, " b"], side: Float[Array, " b"], size: int, axis: int, rank: int
) -> Bool[Array, " b *space"]:
    """Which of `size` positions lie in an interval of `side` (in [0, 1]) around `centre`, along `axis`."""
    length = jnp.round(side * size)
    start = jnp.round(centre * size - length / 2)
    position = jnp.arange(size, dtype=jnp.float32)[None]
    inside = (position >= start[:, None]) & (position < (start + length)[:, None])
    return inside.reshape(-1, *(1,) * axis, size, *(1,) * (rank - axis - 1))
