"""Convolution, normalisation and activation as one layer; blocks as one stage; dense layers behind a feature map;
the activations by name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import unknown
from cnn.layers.conv import Conv, Padding, Sizes, he_normal
from cnn.layers.drop import Dropout
from cnn.layers.pool import adaptive_avg_pool, check_pixels

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "leaky_relu": nn.leaky_relu,  # slope 0.01
    "leaky_relu_0.1": lambda x: nn.leaky_relu(x, 0.1),
    "silu": nn.silu,
    "hard_swish": nn.hard_swish,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,  # Hendrycks & Gimpel's approximation
    "tanh": nn.tanh,
    "none": lambda x: x,
}


def activation(name: str) -> Callable[[Array], Array]:
    """The activation of this name.

    Raises:
      UserError: it is not in ACTIVATIONS.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class ConvNorm(nn.Module):
    """Convolution, normalisation, activation. Parameters `conv/kernel`, `bn/scale`, `bn/bias`.

    Attributes:
      norm: makes the normalisation layer, as `Backbone.make_norm` gives it.
      act: a name of ACTIVATIONS.
      padding: as in `conv`; None pads both sides alike, 'SAME' is TensorFlow's.
      scale_init: of the normalisation; zeros starts a residual branch as nothing.
      use_bias: the convolution has a bias too, as in networks made for no normalisation.
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
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b *space i"], train: bool) -> Float[Array, "b *out o"]:
        x = Conv(
            self.features,
            self.kernel_size,
            self.strides,
            self.padding,
            self.dilation,
            self.groups,
            self.use_bias,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        check_pixels(x)
        x = self.norm(name="bn", scale_init=self.scale_init)(x, train=train)
        return activation(self.act)(x)


class Stage(nn.Module):
    """Blocks one after the other, by name `block1`, `block2`, ...

    Attributes:
      blocks: makes each block, which is called `(x, train)`.
      prefix: of the names.
    """

    blocks: Sequence[Callable[..., nn.Module]]
    prefix: str = "block"

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        for index, block in enumerate(self.blocks, start=1):
            x = block(name=f"{self.prefix}{index}")(x, train)
        return x


class EveryBlock(nn.Module):
    """Like `Stage`, but returns what comes out of every block."""

    blocks: Sequence[Callable[..., nn.Module]]

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> list[Array]:
        found = []
        for index, block in enumerate(self.blocks, start=1):
            x = block(name=f"block{index}")(x, train)
            found.append(x)
        return found


class FlattenedDense(nn.Module):
    """A feature map averaged to a fixed grid and flattened, then dense layers `fc1`, `fc2`, ... .

    An activation follows each, dropout comes between them. Without `widths` it is the mean over space.

    Attributes:
      grid: side of the grid; any input size fits (`adaptive_avg_pool`).
      widths: outputs of each dense layer.
    """

    grid: int
    widths: Sequence[int]
    act: str = "relu"
    dropout: float = 0.0
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b o"]:
        x = adaptive_avg_pool(x, self.grid if self.widths else 1)
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.widths, 1):
            if index > 1:
                x = Dropout(self.dropout, name=f"dropout{index - 1}")(x, train=train)
            x = nn.Dense(width, dtype=self.dtype, kernel_init=self.kernel_init, name=f"fc{index}")(x)
            x = ACTIVATIONS[self.act](x)
        return x
