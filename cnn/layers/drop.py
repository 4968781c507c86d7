"""Dropout and stochastic depth. Both take their randomness from the collection 'dropout'."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnn.errors import UserError


def dropout(x: Float[Array, "..."], rate: float, rng: Key[Array, ""]) -> Float[Array, "..."]:
    """Zeroes each value with probability `rate` and scales the others by 1 / (1 - rate).

    Srivastava et al. 2014, in its inverted form, so that evaluation needs no scaling.
    """
    keep = jax.random.bernoulli(rng, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype)).astype(x.dtype)


def stochastic_depth(
    x: Float[Array, " b *rest"], rate: float, rng: Key[Array, ""]
) -> Float[Array, " b *rest"]:
    """Zeroes a whole residual branch per example with probability `rate`, scales the others.

    Huang et al. 2016 (arXiv 1603.09382), drawn per example and scaled while training, as timm does.
    """
    keep = jax.random.bernoulli(rng, 1 - rate, (x.shape[0], *(1,) * (x.ndim - 1)))
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype)).astype(x.dtype)


def check_rate(what: str, rate: float) -> None:
    """Raises UserError unless 0 <= rate < 1."""
    if not 0 <= rate < 1:
        raise UserError(f"{what} is {rate}; it is a probability in [0, 1)")


class Dropout(nn.Module):
    """`dropout` while training, the identity otherwise. Needs no randomness when `rate` is 0."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
        check_rate("dropout", self.rate)
        if not train or self.rate == 0:
            return x
        return dropout(x, self.rate, self.make_rng("dropout"))


class StochasticDepth(nn.Module):
    """`stochastic_depth` while training, the identity otherwise."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, " b *rest"], *, train: bool) -> Float[Array, " b *rest"]:
        check_rate("drop_path", self.rate)
        if not train or self.rate == 0:
            return x
        return stochastic_depth(x, self.rate, self.make_rng("dropout"))
