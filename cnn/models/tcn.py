"""Temporal convolutional network (Bai, Kolter & Koltun 2018, arXiv 1803.01271): causal, dilated, weight-normalised.

With L levels of window k an answer sees the last 1 + 2 (k - 1) (2^L - 1) steps.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.conv import conv, fan_in_uniform
from cnn.layers.drop import Dropout, check_rate
from cnn.layers.norm import over_channels
from cnn.shapes import Outputs


class CausalConv(nn.Module):
    """A convolution that sees no later step; kernel = g v / |v| per output channel (Salimans & Kingma 2016).

    `v` starts as PyTorch's default and `g` as its norm. The authors' code means to draw v from N(0, 0.01), but sets
    a tensor that weight normalisation then overwrites.
    """

    features: int
    window: int
    dilation: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"]) -> Float[Array, "b t o"]:
        init = fan_in_uniform(self.window * x.shape[-1])
        v = self.param("v", init, (self.window, x.shape[-1], self.features))
        size = jnp.sqrt(jnp.sum(jnp.square(v), axis=(0, 1)))
        g = self.param("g", lambda key: size)
        kernel = (v * over_channels(g / size, 3)).astype(self.dtype)
        before = (self.window - 1) * self.dilation
        y = conv(x.astype(self.dtype), kernel, padding=((before, 0),), dilation=self.dilation)
        bias = self.param("bias", init, (self.features,))
        return y + over_channels(bias.astype(self.dtype), 3)


class TemporalBlock(nn.Module):
    """Two causal convolutions of one dilation around a shortcut."""

    features: int
    window: int
    dilation: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"], train: bool) -> Float[Array, "b t o"]:
        y = x
        for layer in (1, 2):
            y = CausalConv(self.features, self.window, self.dilation, self.dtype, name=f"conv{layer}")(y)
            y = Dropout(self.dropout, name=f"dropout{layer}")(nn.relu(y), train=train)
        if x.shape[-1] != self.features:
            init = fan_in_uniform(x.shape[-1])
            x = nn.Dense(self.features, dtype=self.dtype, kernel_init=init, bias_init=init, name="proj")(x)
        return nn.relu(x.astype(self.dtype) + y)


class TCN(nn.Module):
    """`levels` temporal blocks of dilation 1, 2, 4, ...

    Attributes:
      per_step: `logits` [b, t, k] and `pre_logits` [b, t, c] at every step, in place of the last one alone.
    """

    num_classes: int = 0
    width: int = 30
    levels: int = 8
    window: int = 7
    dropout: float = 0.0
    per_step: bool = False
    dtype: Any = jnp.float32

    TINY = {"width": 24, "levels": 3, "window": 3}
    TINY_INPUT = (20, 2)

    def __post_init__(self) -> None:
        if self.levels < 1 or self.width < 1 or self.window < 1:
            raise ValueError(f"levels {self.levels}, width {self.width} and window {self.window} must be positive")
        check_rate("dropout", self.dropout)
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """1 for every stage."""
        return (1,) * self.levels

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return (self.width,) * self.levels

    @property
    def receptive_field(self) -> int:
        """Steps that the last answer sees."""
        return 1 + 2 * (self.window - 1) * (2**self.levels - 1)

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], *, train: bool) -> Outputs:
        out: Outputs = {}
        for level in range(self.levels):
            name = f"stage{level + 1}"
            x = TemporalBlock(self.width, self.window, 2**level, self.dropout, self.dtype, name=name)(x, train)
            out[name] = x
        out["pre_logits"] = (x if self.per_step else x[:, -1]).astype(jnp.float32)
        if self.num_classes:
            init = nn.initializers.normal(0.01)
            head = nn.Dense(self.num_classes, kernel_init=init, bias_init=fan_in_uniform(self.width), name="head")
            out["logits"] = head(out["pre_logits"])
        return out


tcn = TCN
