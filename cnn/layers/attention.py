"""Channel attention: squeeze-and-excitation, ECA, and ConvNeXt v2's global response normalisation."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.blocks import ACTIVATIONS
from cnn.layers.conv import Conv, conv
from cnn.layers.norm import over_channels


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channel means (Hu et al. 2018, arXiv 1709.01507).

    Parameters `reduce` and `expand`: 1x1 convolutions with bias.

    Attributes:
      reduced: channels in between.
      act: after `reduce`, a name of ACTIVATIONS.
      gate: after `expand`, to [0, 1].
    """

    reduced: int
    act: str = "relu"
    gate: Callable[[Array], Array] = jax.nn.sigmoid
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        space = tuple(range(1, x.ndim - 1))
        y = x.mean(axis=space, keepdims=True, dtype=jnp.float32)
        y = Conv(self.reduced, 1, use_bias=True, dtype=self.dtype, name="reduce")(y)
        y = Conv(x.shape[-1], 1, use_bias=True, dtype=self.dtype, name="expand")(ACTIVATIONS[self.act](y))
        return x * self.gate(y)


class EfficientChannelAttention(nn.Module):
    """A gate per channel from its own mean and its neighbours' (Wang et al. 2020, arXiv 1910.03151).

    Parameter `kernel` [k, 1, 1]; k grows with the logarithm of the channels (section 3.3, gamma 2, b 1).
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        channels = x.shape[-1]
        nearest = int(abs(math.log2(channels) + 1) / 2)
        window = max(nearest if nearest % 2 else nearest + 1, 3)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (window, 1, 1), jnp.float32)
        y = x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)
        y = conv(y[:, :, None].astype(self.dtype), kernel.astype(self.dtype))[..., 0]
        return x * jax.nn.sigmoid(y).reshape(x.shape[0], *(1,) * (x.ndim - 2), channels)


class GlobalResponseNorm(nn.Module):
    """Channels compete by their norm over space (Woo et al. 2023, arXiv 2301.00808, section 3, algorithm 1).

    Parameters `scale`, `bias` [c], zero at the start: the identity.
    """

    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        space = tuple(range(1, x.ndim - 1))
        energy = jnp.square(x.astype(jnp.float32)).sum(axis=space, keepdims=True)
        # A channel that is zero everywhere (GELU in bfloat16 makes such) has no derivative of its root: 0 instead.
        norm = jnp.sqrt(jnp.maximum(energy, 1e-30))
        response = norm / (norm.mean(axis=-1, keepdims=True) + self.epsilon)
        y = x * response.astype(self.dtype) * over_channels(scale, x.ndim).astype(self.dtype)
        return x + y + over_channels(bias, x.ndim).astype(self.dtype)
