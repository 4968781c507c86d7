"""The stem and the blocks of ResNet (He et al. 2015, arXiv 1512.03385) with what later papers changed in them.

`ResNetBlock` normalises after each convolution, `PreActBlock` before it (He et al. 2016, arXiv 1603.05027).
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.attention import EfficientChannelAttention, SqueezeExcite
from cnn.layers.conv import Conv, Sizes
from cnn.layers.drop import Dropout, StochasticDepth
from cnn.layers.pool import avg_pool, max_pool


class StemKind(NamedTuple):
    """What is in front of the first stage.

    Attributes:
      window: of each convolution.
      strides: of the first one.
      eighths: channels of each convolution, in eighths of the stem's.
      pool: padding (low, high) of the 3x3 max pool of stride 2 at the end, None for no pool.
      zeros: the pool pads with 0, which counts in front of an activation, instead of nothing.
    """

    window: int
    strides: int = 2
    eighths: tuple[int, ...] = (8,)
    pool: tuple[int, int] | None = None
    zeros: bool = False

    @property
    def stride(self) -> int:
        """Of the whole stem."""
        return self.strides * (1 if self.pool is None else 2)


STEMS = {
    "imagenet": StemKind(7, pool=(1, 1)),
    "cifar": StemKind(3, strides=1),
    "strided": StemKind(3),
    "deep": StemKind(3, eighths=(4, 4, 8), pool=(1, 1)),
    "tiered": StemKind(3, eighths=(3, 4, 8), pool=(1, 1)),
    "caffe": StemKind(7, pool=(0, 1)),
    "bit": StemKind(7, pool=(1, 1), zeros=True),
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
      conv: makes each convolution.
    """

    width: int
    bottleneck: bool
    shrinks: bool
    strides: Sizes
    dilations: tuple[int, int]
    norm: Callable[..., nn.Module]
    drop_path: float
    dtype: Any
    shortcut: str = "conv1x1"
    attention: str = "none"
    cardinality: int = 1
    base_width: int = 64
    reduce_first: int = 1
    stride_first: bool = False
    zero_init: bool = False
    conv: Callable[..., nn.Module] = Conv

    preact: ClassVar[bool] = False

    # `train` is positional because `nn.remat` marks static arguments by position.
    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        y, convs = x, self.convs()
        for index, conv in enumerate(convs, start=1):
            last = index == len(convs)
            scale = nn.initializers.zeros if last and self.zero_init else nn.initializers.ones
            y = self.norm(name=f"bn{index}", scale_init=scale)(conv(y), train=train)
            y = y if last else nn.relu(y)
        y = self.branch_end(y, train)
        if self.changes(x, y):
            x = self.norm(name="proj_bn")(self.projected(x, y.shape[-1]), train=train)
        return nn.relu(y + x)

    def convs(self) -> list[nn.Module]:
        """The convolutions `conv1`, `conv2`, ..."""
        first, second = self.dilations
        if self.bottleneck:
            inner = self.width * self.base_width // 64 * self.cardinality
            at_first, at_second = (self.strides, 1) if self.stride_first else (1, self.strides)
            dilation = second if self.stride_first else first
            layers = [
                (inner // self.reduce_first, 1, at_first, 1, 1),
                (inner, 3, at_second, dilation, self.cardinality),
                (EXPANSION * self.width, 1, 1, 1, 1),
            ]
        else:
            layers = [(self.width, 3, self.strides, first, 1), (self.width, 3, 1, second, 1)]
        convs = []
        for index, (features, window, strides, dilation, groups) in enumerate(layers, start=1):
            how = {"dilation": dilation, "groups": groups, "dtype": self.dtype, "name": f"conv{index}"}
            if self.preact and self.zero_init and index == len(layers):
                how["kernel_init"] = nn.initializers.zeros  # no scale follows it
            convs.append(self.conv(features, window, strides, **how))
        return convs

    def branch_end(self, y: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *space c"]:
        """Attention and stochastic depth."""
        attention = ATTENTION[self.attention]
        if attention:
            y = attention(y.shape[-1], dtype=self.dtype)(y)
        return StochasticDepth(self.drop_path, name="drop_path")(y, train=train)

    def changes(self, x: Array, y: Array) -> bool:
        """Whether the shortcut from `x` to `y` needs a projection."""
        return self.shrinks or x.shape[-1] != y.shape[-1]

    def projected(self, x: Float[Array, "b *space c"], features: int) -> Float[Array, "b *out o"]:
        """`x` in the size and with the channels of the block's output."""
        window, strides = 1, self.strides
        if self.shrinks and self.shortcut == "avg_pool":
            x, strides = avg_pool(x, 2, strides, "SAME"), 1
        elif self.shrinks and self.shortcut == "conv3x3":
            window = 3
        return self.conv(features, window, strides, dilation=self.dilations[0], dtype=self.dtype, name="proj")(x)


class PreActBlock(ResNetBlock):
    """The same convolutions with normalisation and activation in front of each, nothing behind the sum.

    The projection of the shortcut takes the activated input.

    Attributes:
      dropout: in front of the last convolution (Zagoruyko & Komodakis 2016).
    """

    dropout: float = 0.0

    preact: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        convs = self.convs()
        y = activated = nn.relu(self.norm(name="bn1")(x, train=train))
        for index, conv in enumerate(convs, start=1):
            if index > 1:
                y = nn.relu(self.norm(name=f"bn{index}")(y, train=train))
            if index == len(convs):
                y = Dropout(self.dropout, name="dropout")(y, train=train)
            y = conv(y)
        y = self.branch_end(y, train)
        return y + (self.projected(activated, y.shape[-1]) if self.changes(x, y) else x)


class ResNetStem(nn.Module):
    """What is in front of the first stage.

    Attributes:
      kind: one of STEMS; width: its channels.
      preact: leaves normalisation and activation behind the last convolution to the first block.
      conv: makes each convolution.
    """

    width: int
    kind: str
    norm: Callable[..., nn.Module]
    dtype: Any
    preact: bool = False
    conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        kind = STEMS[self.kind]
        for index, eighths in enumerate(kind.eighths, start=1):
            features, strides = self.width * eighths // 8, kind.strides if index == 1 else 1
            x = self.conv(features, kind.window, strides, dtype=self.dtype, name=f"conv{index}")(x)
            if index < len(kind.eighths) or not self.preact:
                x = nn.relu(self.norm(name=f"bn{index}")(x, train=train))
        if kind.pool is None:
            return x
        pads = (kind.pool,) * (x.ndim - 2)
        if kind.zeros:
            x, pads = jnp.pad(x, ((0, 0), *pads, (0, 0))), "VALID"
        return max_pool(x, 3, 2, padding=pads)
