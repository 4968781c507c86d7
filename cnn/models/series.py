"""Networks for the classification of series, by their papers; any spatial rank.

FCN, ResNet and MLP: Wang, Yan & Oates 2017 (arXiv 1611.06455). InceptionTime: Fawaz et al. 2020 (arXiv 1909.04939).
Convolutions keep the length ('SAME') and have no bias, which BatchNorm makes idle.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.blocks import ConvNorm
from cnn.layers.conv import Conv
from cnn.layers.drop import Dropout, StochasticDepth
from cnn.layers.pool import max_pool
from cnn.models.backbone import Backbone
from cnn.shapes import Outputs

GLOROT = nn.initializers.glorot_uniform()  # Keras's default, which the authors used


class SeriesFCN(Backbone):
    """Three convolutions of kernel sizes 8, 5, 3, then the mean over time."""

    widths: tuple[int, ...] = (128, 256, 128)
    kernel_sizes: tuple[int, ...] = (8, 5, 3)

    TINY = {"widths": (8, 12, 8)}
    TINY_INPUT = (24, 2)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """1 for every stage."""
        return (1,) * len(self.widths)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(self.widths)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        out: Outputs = {}
        norm = self.make_norm()
        for stage, (width, window) in enumerate(zip(self.widths, self.kernel_sizes, strict=True), start=1):
            layer = self.block(ConvNorm, stage)
            x = layer(
                width, window, padding="SAME", norm=norm, dtype=self.dtype, kernel_init=GLOROT, name=f"stage{stage}"
            )(x, train)
            out[f"stage{stage}"] = x
        return self.classify(out, x, train, GLOROT)


class ResidualBlock(nn.Module):
    """Windows 8, 5, 3 around a shortcut that is always normalised."""

    features: int
    norm: Any
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space i"], train: bool) -> Float[Array, "b *space o"]:
        y = x
        for layer, window in enumerate((8, 5, 3), start=1):
            y = ConvNorm(
                self.features,
                window,
                padding="SAME",
                act="none" if layer == 3 else "relu",
                norm=self.norm,
                dtype=self.dtype,
                kernel_init=GLOROT,
                name=f"conv{layer}",
            )(y, train)
        y = StochasticDepth(self.drop_path, name="drop_path")(y, train=train)
        return nn.relu(y + _shortcut(x, self.features, self.norm, self.dtype, train))


def _shortcut(x: Array, features: int, norm: Any, dtype: Any, train: bool) -> Array:
    """BatchNorm of `x`, after a 1x1 convolution where the channels differ. Called inside a compact method."""
    if x.shape[-1] != features:
        x = Conv(features, 1, dtype=dtype, kernel_init=GLOROT, name="proj")(x)
    return norm(name="proj_bn")(x, train=train)


class SeriesResNet(Backbone):
    """Three residual blocks, then the mean over time."""

    widths: tuple[int, ...] = (64, 128, 128)

    TINY = {"widths": (8, 12, 12)}
    TINY_INPUT = (24, 2)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """1 for every stage."""
        return (1,) * len(self.widths)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(self.widths)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        out: Outputs = {}
        norm, rates = self.make_norm(), self.drop_path_rates(len(self.widths))
        for stage, width in enumerate(self.widths, start=1):
            block = self.block(ResidualBlock, stage)
            x = block(width, norm, rates[stage - 1], self.dtype, name=f"stage{stage}")(x, train)
            out[f"stage{stage}"] = x
        return self.classify(out, x, train, GLOROT)


class InceptionModules(nn.Module):
    """Three inception modules around a shortcut."""

    width: int
    kernel_sizes: tuple[int, ...]
    norm: Any
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space i"], train: bool) -> Float[Array, "b *space o"]:
        y = x
        for module in range(1, 4):
            y = nn.relu(self._module(y, f"module{module}", train))
        y = StochasticDepth(self.drop_path, name="drop_path")(y, train=train)
        return nn.relu(y + _shortcut(x, y.shape[-1], self.norm, self.dtype, train))

    def _module(self, x: Array, name: str, train: bool) -> Array:
        def conv(x: Array, window: int, part: str) -> Array:
            made = Conv(
                self.width, window, padding="SAME", dtype=self.dtype, kernel_init=GLOROT, name=f"{name}_{part}"
            )
            return made(x)

        narrow = conv(x, 1, "bottleneck") if x.shape[-1] > 1 else x
        branches = [conv(narrow, window, f"conv{window}") for window in self.kernel_sizes]
        branches.append(conv(max_pool(x, 3, 1, "SAME"), 1, "pool"))
        return self.norm(name=f"{name}_bn")(jnp.concatenate(branches, axis=-1), train=train)


class InceptionTime(Backbone):
    """Two groups of three inception modules, kernel sizes 40, 20, 10; one network of the paper's ensemble of five."""

    width: int = 32
    kernel_sizes: tuple[int, ...] = (40, 20, 10)

    TINY = {"width": 4, "kernel_sizes": (9, 5, 3)}
    TINY_INPUT = (24, 2)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """1 for every stage."""
        return (1, 1)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return (self.width * (len(self.kernel_sizes) + 1),) * 2

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        out: Outputs = {}
        rates = self.drop_path_rates(2)
        for stage in (1, 2):
            group = self.block(InceptionModules, stage)
            x = group(
                self.width,
                tuple(self.kernel_sizes),
                self.make_norm(),
                rates[stage - 1],
                self.dtype,
                name=f"stage{stage}",
            )(x, train)
            out[f"stage{stage}"] = x
        return self.classify(out, x, train, GLOROT)


class SeriesMLP(nn.Module):
    """Three hidden layers of 500 on the flattened series, with dropout 0.1 before, 0.2 between, 0.3 at the end."""

    num_classes: int = 0
    width: int = 500
    dtype: Any = jnp.float32

    TINY = {"width": 12}
    TINY_INPUT = (24, 2)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """0 for every stage: no time axis is left."""
        return (0, 0, 0)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return (self.width,) * 3

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        x = x.reshape(x.shape[0], math.prod(x.shape[1:])).astype(self.dtype)
        out: Outputs = {}
        for layer, rate in enumerate((0.1, 0.2, 0.2), start=1):
            x = Dropout(rate, name=f"dropout{layer}")(x, train=train)
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype, kernel_init=GLOROT, name=f"stage{layer}")(x))
            out[f"stage{layer}"] = x
        out["pre_logits"] = x.astype(jnp.float32)
        if self.num_classes:
            y = Dropout(0.3, name="dropout4")(out["pre_logits"], train=train)
            out["logits"] = nn.Dense(self.num_classes, kernel_init=GLOROT, name="head")(y)
        return out


series_fcn = SeriesFCN
series_resnet = SeriesResNet
series_inception_time = InceptionTime
series_mlp = SeriesMLP
