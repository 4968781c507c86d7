"""Darknet-53 (Redmon & Farhadi 2018, YOLOv3, arXiv 1804.02767), with the parameters of timm."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.errors import unknown
from cnn.layers.blocks import ACTIVATIONS, ConvNorm
from cnn.layers.drop import StochasticDepth
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs


class DarkBlock(nn.Module):
    """1x1 to half the channels, 3x3 back, added to the input without an activation behind the sum."""

    conv: Callable[..., nn.Module]
    dilation: int
    zero_init: bool
    drop_path: float

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *space c"]:
        channels = x.shape[-1]
        scale = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        y = self.conv(channels // 2, 1, name="conv1")(x, train)
        y = self.conv(channels, 3, 1, self.dilation, scale_init=scale, name="conv2")(y, train)
        return x + StochasticDepth(self.drop_path, name="drop_path")(y, train=train)


class DarkStage(nn.Module):
    """A strided convolution that doubles the channels, and blocks."""

    down: Callable[..., nn.Module]
    blocks: Sequence[Callable[..., nn.Module]]

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        x = self.down(name="down")(x, train)
        for index, block in enumerate(self.blocks, 1):
            x = block(name=f"block{index}")(x, train)
        return x


class Darknet(Backbone):
    """A 3x3 stem at full resolution, then stages of residual blocks at strides 2, 4, 8, 16 and 32.

    Attributes:
      stage_sizes: blocks of each stage.
      width: channels of the stem; they double at each stage.
      act: a name of ACTIVATIONS; 'leaky_relu' is what timm's weights are made for, 'leaky_relu_0.1' the paper's.
      zero_init: each block's last scale starts at 0, as in timm.
    """

    stage_sizes: Sequence[int] = (1, 2, 8, 8, 4)
    width: int = 32
    act: str = "leaky_relu"
    zero_init: bool = True

    TINY: ClassVar[Mapping[str, Any]] = {"stage_sizes": (1, 1, 2, 1, 1), "width": 2}

    def __post_init__(self) -> None:
        if self.act not in ACTIVATIONS:
            raise unknown("act", self.act, ACTIVATIONS)
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited([2 ** (stage + 1) for stage in range(len(self.stage_sizes))])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(self.width * 2 ** (stage + 1) for stage in range(len(self.stage_sizes)))

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        conv = partial(ConvNorm, act=self.act, norm=self.make_norm(), dtype=self.dtype)
        resolution = Resolution(self.output_stride)
        rates = iter(self.drop_path_rates(sum(self.stage_sizes)))
        out: Outputs = {}
        x = conv(self.width, 3, name="stem")(x, train)
        for stage, (size, channels) in enumerate(zip(self.stage_sizes, self.feature_channels, strict=True), 1):
            down = partial(conv, channels, 3, *resolution.step(2))
            block = partial(
                self.block(DarkBlock, stage), conv, resolution.step()[1], self.zero_init
            )
            blocks = [partial(block, next(rates)) for _ in range(size)]
            x = out[f"stage{stage}"] = DarkStage(down, blocks, name=f"stage{stage}")(x, train)
        return self.classify(out, x, train)


darknet53 = partial(Darknet)
darknet21 = partial(Darknet, stage_sizes=(1, 1, 1, 2, 2))
darknet17 = partial(Darknet, stage_sizes=(1, 1, 1, 1, 1))
