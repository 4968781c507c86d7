"""Convolutions with standardised kernels, which train without batch statistics."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnn.layers.conv import Conv
from cnn.layers.norm import over_channels


def standardized(
    kernel: Float[Array, "*window i o"], epsilon: float
) -> Float[Array, "*window i o"]:
    """Mean 0 and variance 1 (biased, plus `epsilon`) over the inputs of each output channel."""
    inputs = tuple(range(kernel.ndim - 1))
    centred = kernel - kernel.mean(axis=inputs, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(axis=inputs, keepdims=True) + epsilon)


class StdConv(Conv):
    """`Conv` with weight standardisation (Qiao et al. 2019, arXiv 1903.10520)."""

    epsilon: float = 1e-8

    def prepared(self, kernel: Float[Array, "*window i o"]) -> Float[Array, "*window i o"]:
        """The standardised kernel."""
        return standardized(kernel, self.epsilon)


class ScaledStdConv(Conv):
    """`Conv` with scaled weight standardisation (Brock et al. 2021, arXiv 2101.08692, section 4.1).

    Unit variance in gives unit variance out. Parameter `gain` [o] beside those of `Conv`.

    Attributes:
      gamma: of the activation before it, which takes a part of the variance away.
    """

    epsilon: float = 1e-5
    gamma: float = 1.0
    gain_init: Callable[..., Array] = nn.initializers.ones

    def prepared(self, kernel: Float[Array, "*window i o"]) -> Float[Array, "*window i o"]:
        """The standardised kernel, divided by the root of its inputs and times `gain`."""
        gain = self.param("gain", self.gain_init, kernel.shape[-1:], jnp.float32)
        scale = gain * (self.gamma / math.sqrt(math.prod(kernel.shape[:-1])))
        return standardized(kernel, self.epsilon) * over_channels(scale, kernel.ndim)
