"""Convolution, normalisation and activation as one layer; blocks as one stage; the activations by name."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.conv import Conv, Padding, Sizes, he_normal

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "leaky_relu": lambda x: nn.leaky_relu(x, 0.1),  # Darknet's slope
    "silu": nn.silu,
    "hard_swish": nn.hard_swish,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "none": lambda x: x,
}


class ConvNorm(nn.Module):
    """Convolution without bias, normalisation, activation. Parameters `conv/kernel`, `bn/scale`, `bn/bias`.

    Attributes:
      norm: makes the normalisation layer, as `Backbone.make_norm` gives it.
      act: a name of ACTIVATIONS.
      padding: as in `conv`; None pads both sides alike, 'SAME' is TensorFlow's.
      scale_init: of the normalisation; zeros starts a residual branch as nothing.
    """

    features: int
    kernel_size: Sizes = 3
    strides: Sizes = 1
    dilation: Sizes = 1
    groups: int = 1
    padding: Padding = None
    act: str = "relu"
    norm: Callable[..., nn.Module] | None = None
    dtype: Any = jnp.float32
    scale_init: Callable[..., Array] = nn.initializers.ones
    kernel_init: Callable[..., Array] = he_normal

    @nn.compact
    def __call__(self, x: Float[Array, "b *space i"], train: bool) -> Float[Array, "b *out o"]:
        x = Conv(
            self.features,
            self.kernel_size,
            self.strides,
            self.padding,
            self.dilation,
            self.groups,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        x = self.norm(name="bn", scale_init=self.scale_init)(x, train=train)
        return ACTIVATIONS[self.act](x)


class Stage(nn.Module):
    """Blocks one after the other, by name `block1`, `block2`, ...

    Attributes:
      blocks: makes each block, which is called `(x, train)`.
    """

    blocks: Sequence[Callable[..., nn.Module]]

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        for index, block in enumerate(self.blocks, start=1):
            x = block(name=f"block{index}")(x, train)
        return x
