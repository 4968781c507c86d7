"""The networks of MNIST-1D (Greydanus & Kobak 2024, arXiv 2011.14439), with PyTorch's default initialisation.

Published test accuracy on the ordered / shuffled signal, %: logistic 32 / 32, MLP 68 / 68, CNN 94 / 56.
Parameters: 410, 15,210, 5,210.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.conv import Conv, fan_in_uniform
from cnn.models.mlp import MLP
from cnn.shapes import Outputs


class Mnist1dCNN(nn.Module):
    """Three strided convolutions of windows 5, 3, 3 with padding 1, then a dense head on all positions.

    Any spatial rank, but the head is tied to the input's size: 40 steps give 5 positions.
    """

    num_classes: int = 0
    width: int = 25
    dtype: Any = jnp.float32

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input steps per feature step, one number per stage."""
        return (2, 4, 8)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return (self.width,) * 3

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        out: Outputs = {}
        for stage, window in enumerate((5, 3, 3), start=1):
            init = fan_in_uniform(window ** (x.ndim - 2) * x.shape[-1])
            conv = Conv(
                self.width,
                window,
                strides=2,
                padding=1,
                use_bias=True,
                dtype=self.dtype,
                kernel_init=init,
                bias_init=init,
                name=f"stage{stage}",
            )
            x = nn.relu(conv(x))
            out[f"stage{stage}"] = x
        x = x.reshape(x.shape[0], math.prod(x.shape[1:])).astype(jnp.float32)
        out["pre_logits"] = x
        if self.num_classes:
            init = fan_in_uniform(x.shape[-1])
            head = nn.Dense(self.num_classes, kernel_init=init, bias_init=init, name="head")
            out["logits"] = head(x)
        return out


mnist1d_cnn = Mnist1dCNN
mnist1d_mlp = partial(MLP, width=100, depth=2, residual=True, initializer="torch")
mnist1d_logistic = partial(MLP, depth=0, initializer="torch")
