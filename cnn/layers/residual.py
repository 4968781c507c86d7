"""The stem and the block of ResNet (He et al. 2015, arXiv 1512.03385) with what later papers changed in them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.layers.attention import EfficientChannelAttention, SqueezeExcite
from cnn.layers.conv import Conv
from cnn.layers.drop import StochasticDepth
from cnn.layers.pool import avg_pool, max_pool


class StemKind(NamedTuple):
    """What is in front of the first stage.

    Attributes:
      window: of each convolution.
      strides: of the first one.
      eighths: channels of each convolution, in eighths of the stem's.
      pool: padding (low, high) of the 3x3 max pool of stride 2 at the end, None for no pool.
    """

    window: int
    strides: int = 2
    eighths: tuple[int, ...] = (8,)
    pool: tuple[int, int] | None = None


STEMS = {
    "imagenet": StemKind(7, pool=(1, 1)),
    "cifar": StemKind(3, strides=1),
    "strided": StemKind(3),
    "deep": StemKind(3, eighths=(4, 4, 8), pool=(1, 1)),
    "tiered": StemKind(3, eighths=(3, 4, 8), pool=(1, 1)),
    "caffe": StemKind(7, pool=(0, 1)),
}
SHORTCUTS = ("conv1x1", "avg_pool", "conv3x3")
ATTENTION: dict[str, Callable[..., nn.Module] | None] = {
    "none": None,
    # A sixteenth of the channels, to the nearest multiple of 8.
    "se": lambda channels, **how: SqueezeExcite(8 * max(1, int(channels / 128 + 0.5)), name="se", **how),
    "eca": lambda channels, **how: EfficientChannelAttention(name="eca", **how),
}
EXPANSION = 4


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions (basic), or 1x1 - 3x3 - 1x1 with four times the channels (bottleneck).

    Attributes as in `cnn.models.resnet.ResNet`, and
      shrinks: the plain network strides here, which `strides` says only without dilation.
      dilations: of the first and of the second 3x3 convolution.
    """

    width: int
    bottleneck: bool
    shrinks: bool
    strides: int
    dilations: tuple[int, int]
    cardinality: int
    base_width: int
    reduce_first: int
    stride_first: bool
    shortcut: str
    attention: str
    norm: Callable[..., nn.Module]
    zero_init: bool
    drop_path: float
    dtype: Any

    def layers(self) -> list[tuple[int, int, int, int, int]]:
        """Features, window, strides, dilation and groups of each convolution."""
        first, second = self.dilations
        if not self.bottleneck:
            return [(self.width, 3, self.strides, first, 1), (self.width, 3, 1, second, 1)]
        inner = self.width * self.base_width // 64 * self.cardinality
        strides, dilation = ((self.strides, 1), second) if self.stride_first else ((1, self.strides), first)
        return [
            (inner // self.reduce_first, 1, strides[0], 1, 1),
            (inner, 3, strides[1], dilation, self.cardinality),
            (EXPANSION * self.width, 1, 1, 1, 1),
        ]

    # `train` is positional because `nn.remat` marks static arguments by position.
    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        y, layers = x, self.layers()
        for index, (features, window, strides, dilation, groups) in enumerate(layers, start=1):
            last = index == len(layers)
            conv = partial(Conv, dilation=dilation, groups=groups, dtype=self.dtype)
            y = conv(features, window, strides, name=f"conv{index}")(y)
            scale = nn.initializers.zeros if last and self.zero_init else nn.initializers.ones
            y = self.norm(name=f"bn{index}", scale_init=scale)(y, train=train)
            y = y if last else nn.relu(y)
        attention = ATTENTION[self.attention]
        if attention:
            y = attention(y.shape[-1], dtype=self.dtype)(y)
        y = StochasticDepth(self.drop_path, name="drop_path")(y, train=train)
        return nn.relu(y + self.projected(x, y.shape[-1], train))

    def projected(self, x: Float[Array, "b *space c"], features: int, train: bool) -> Float[Array, "b *out o"]:
        """The shortcut: `x`, in the size and with the channels of the block's output."""
        if not self.shrinks and x.shape[-1] == features:
            return x
        window, strides = 1, self.strides
        if self.shrinks and self.shortcut == "avg_pool":
            x, strides = avg_pool(x, 2, strides, "SAME"), 1
        elif self.shrinks and self.shortcut == "conv3x3":
            window = 3
        conv = Conv(features, window, strides, dilation=self.dilations[0], dtype=self.dtype, name="proj")
        return self.norm(name="proj_bn")(conv(x), train=train)


class ResNetStem(nn.Module):
    """What is in front of the first stage; `kind` is one of STEMS, `width` its channels."""

    width: int
    kind: str
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        kind, strides = STEMS[self.kind], STEMS[self.kind].strides
        for index, eighths in enumerate(kind.eighths, start=1):
            features = self.width * eighths // 8
            x = Conv(features, kind.window, strides, dtype=self.dtype, name=f"conv{index}")(x)
            x = nn.relu(self.norm(name=f"bn{index}")(x, train=train))
            strides = 1
        return x if kind.pool is None else max_pool(x, 3, 2, padding=(kind.pool,) * (x.ndim - 2))
