"""ShuffleNet v2 (Ma et al. 2018, arXiv 1807.11164): half of the channels pass by, then the halves are interleaved.

Stages are at strides 4 (behind the max pooling), 8, 16, 32: `stage2` .. `stage4` are the paper's. Padding, order
and counts are torchvision's.
"""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.blocks import ConvNorm, Stage
from cnn.layers.inverted_residual import DEPTHWISE_INIT
from cnn.layers.pool import max_pool
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs


def interleave(
    a: Float[Array, "b *space c"], b: Float[Array, "b *space c"]
) -> Float[Array, "b *space d"]:
    """Channels a0, b0, a1, b1, ...: the shuffle of two groups."""
    return jnp.stack([a, b], axis=-1).reshape(*a.shape[:-1], 2 * a.shape[-1])


class ShuffleBlock(nn.Module):
    """Figure 3 (c), and with `downsample` (d), where both halves see all channels and are filtered.

    Parameters below `conv1`, `depthwise`, `conv2` of the one branch, `proj_depthwise`, `proj` of the other.
    """

    channels: int
    downsample: bool
    strides: int
    dilation: int
    layer: Callable[..., nn.Module]

    # `train` is positional because `nn.remat` marks static arguments by position.
    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        half = self.channels // 2
        depthwise = partial(
            self.layer,
            kernel_size=3,
            strides=self.strides,
            dilation=self.dilation,
            act="none",
            kernel_init=DEPTHWISE_INIT,
        )
        if self.downsample:
            channels = x.shape[-1]
            passed = depthwise(channels, groups=channels, name="proj_depthwise")(x, train)
            passed = self.layer(half, 1, name="proj")(passed, train)
        else:
            passed, x = x[..., :half], x[..., half:]
        y = self.layer(half, 1, name="conv1")(x, train)
        y = depthwise(half, groups=half, name="depthwise")(y, train)
        y = self.layer(half, 1, name="conv2")(y, train)
        return interleave(passed, y)


class ShuffleNetV2(Backbone):
    """The family.

    Attributes:
      channels: of the stem, stages 2 to 4 and the last convolution (table 5).
      repeats: blocks of stages 2 to 4.
    """

    channels: Sequence[int] = (24, 116, 232, 464, 1024)
    repeats: Sequence[int] = (4, 8, 4)

    TINY = {"channels": (8, 8, 16, 16, 16), "repeats": (2, 1, 1)}

    def __post_init__(self) -> None:
        if len(self.channels) != 5 or any(c % 2 for c in self.channels):
            raise UserError(
                f"channels {tuple(self.channels)} are not 5 even numbers: stem, stages 2 to 4, top"
            )
        if len(self.repeats) != 3:
            raise UserError(f"repeats {tuple(self.repeats)} are not those of stages 2 to 4")
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited((4, 8, 16, 32))

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(self.channels[:-1])

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        layer = partial(ConvNorm, norm=self.make_norm(), dtype=self.dtype)
        resolution = Resolution(self.output_stride)
        x = layer(self.channels[0], 3, resolution.step(2)[0], name="stem")(x, train)
        x = max_pool(x, 3, resolution.step(2)[0], padding=1)
        out: Outputs = {"stage1": x}
        for stage, (channels, repeats) in enumerate(
            zip(self.channels[1:-1], self.repeats, strict=True), 2
        ):
            blocks = []
            for number in range(repeats):
                strides, dilation = resolution.step(1 if number else 2)
                blocks.append(
                    partial(
                        self.block(ShuffleBlock, stage),
                        channels=channels,
                        downsample=number == 0,
                        strides=strides,
                        dilation=dilation,
                        layer=layer,
                    )
                )
            x = Stage(blocks, name=f"stage{stage}")(x, train)
            out[f"stage{stage}"] = x
        if self.features_only:
            return out
        x = layer(self.channels[-1], 1, name="top")(x, train)
        return self.classify(out, x, train)


shufflenet_v2_x0_5 = partial(ShuffleNetV2, channels=(24, 48, 96, 192, 1024))
shufflenet_v2_x1_0 = partial(ShuffleNetV2)
shufflenet_v2_x1_5 = partial(ShuffleNetV2, channels=(24, 176, 352, 704, 1024))
shufflenet_v2_x2_0 = partial(ShuffleNetV2, channels=(24, 244, 488, 976, 2048))
