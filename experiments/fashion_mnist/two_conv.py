"""Two convolutions with pooling and one hidden layer, as the tutorials have it: 86,282 parameters for 28x28x1."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.conv import Conv
from cnn.layers.drop import Dropout
from cnn.layers.pool import max_pool
from cnn.shapes import Outputs


class TwoConv(nn.Module):
    """Convolution 3x3, ReLU, 2x2 max-pooling, twice; then a dense layer on all positions."""

    num_classes: int = 0
    widths: tuple[int, ...] = (24, 48)
    hidden: int = 32
    dropout: float = 0.2
    dtype: Any = jnp.float32

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel."""
        return tuple(2**stage for stage in range(1, len(self.widths) + 1))

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(self.widths)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        out: Outputs = {}
        for stage, width in enumerate(self.widths, start=1):
            x = nn.relu(Conv(width, 3, use_bias=True, dtype=self.dtype, name=f"conv{stage}")(x))
            x = out[f"stage{stage}"] = max_pool(x, 2)
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x)).astype(jnp.float32)
        out["pre_logits"] = x
        if self.num_classes:
            x = Dropout(self.dropout, name="dropout")(x, train=train)
            out["logits"] = nn.Dense(self.num_classes, name="head")(x)
        return out


two_conv = partial(TwoConv)
