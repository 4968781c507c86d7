"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545) and ConvNeXt v2 (Woo et al. 2023, arXiv 2301.00808).

A ResNet brought to the habits of vision transformers: patches in place of a stem, depthwise 7x7 convolutions, one
normalisation (LayerNorm) and one GELU per block, layer scale. v2 lets the channels of the hidden layer compete
(global response normalisation) and needs no layer scale for it. One family for 1-D, 2-D and 3-D inputs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.attention import GlobalResponseNorm
from cnn.layers.blocks import Stage, activation
from cnn.layers.conv import Conv
from cnn.layers.drop import StochasticDepth
from cnn.layers.norm import over_channels
from cnn.layers.pool import global_avg_pool
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs

# The authors' "truncated" normal cuts at +-2, a hundred deviations away.
INIT = nn.initializers.normal(0.02)
PATCH = 4  # pixels, side of a patch of the stem


class ConvNeXtBlock(nn.Module):
    """x + depthwise convolution, norm, 1x1 to four times the channels, GELU, 1x1 back (figure 4).

    Attributes as in `ConvNeXt`.
    """

    kernel_size: int
    dilation: int
    act: str
    grn: bool
    layer_scale: float
    norm: Callable[..., nn.Module]
    drop_path: float
    dtype: Any

    # `train` is positional because `nn.remat` marks static arguments by position.
    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *space c"]:
        width = x.shape[-1]
        conv = partial(Conv, use_bias=True, dtype=self.dtype, kernel_init=INIT)
        y = conv(width, self.kernel_size, dilation=self.dilation, groups=width, name="depthwise")(x)
        y = self.norm(name="norm")(y, train=train)
        y = activation(self.act)(conv(4 * width, 1, name="expand")(y))
        if self.grn:
            y = GlobalResponseNorm(dtype=self.dtype, name="grn")(y)
        y = conv(width, 1, name="reduce")(y)
        if self.layer_scale:
            start = nn.initializers.constant(self.layer_scale)
            scale = self.param("layer_scale", start, (width,), jnp.float32)
            y = y * over_channels(scale, y.ndim).astype(self.dtype)
        return x + StochasticDepth(self.drop_path, name="drop_path")(y, train=train)


class ConvNeXt(Backbone):
    """The family.

    Attributes:
      depths: blocks per stage.
      widths: channels per stage; the paper doubles them from stage to stage.
      kernel_size: side of the depthwise window.
      act: of the blocks, a name of ACTIVATIONS.
      grn: global response normalisation in the blocks (v2).
      layer_scale: start of the learned scale of each block's channels, 0 for none.
      norm: as in `Backbone`; the paper's is LayerNorm over the channels of each position.
    """

    depths: Sequence[int] = (3, 3, 9, 3)
    widths: Sequence[int] = (96, 192, 384, 768)
    kernel_size: int = 7
    act: str = "gelu"
    grn: bool = False
    layer_scale: float = 1e-6
    norm: str = "layer"
    norm_epsilon: float = 1e-6

    TINY: ClassVar = {"depths": (1, 1, 2, 1), "widths": (8, 8, 16, 16), "kernel_size": 3, "grn": True}

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths):
            raise UserError(f"depths {self.depths} and widths {self.widths} must have a number per stage each")
        if self.kernel_size % 2 == 0:
            raise UserError(f"kernel_size {self.kernel_size} of the depthwise convolutions must be odd")
        activation(self.act)
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited([PATCH * 2**stage for stage in range(len(self.depths))])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(self.widths)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        norm, resolution = self.make_norm(), Resolution(self.output_stride)
        conv = partial(Conv, use_bias=True, dtype=self.dtype, kernel_init=INIT)
        rates = iter(self.drop_path_rates(sum(self.depths)))
        out: Outputs = {}
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            if stage == 1:
                x = conv(width, PATCH, resolution.step(PATCH)[0], "VALID", name="stem")(x)
                x = norm(name="stem_norm")(x, train=train)
            else:
                x = norm(name=f"down{stage}_norm")(x, train=train)
                x = conv(width, 2, **resolution.window(x.ndim - 2, 2, 2), name=f"down{stage}")(x)
            block = partial(
                self.block(ConvNeXtBlock, stage),
                kernel_size=self.kernel_size,
                dilation=resolution.dilation,
                act=self.act,
                grn=self.grn,
                layer_scale=self.layer_scale,
                norm=norm,
                dtype=self.dtype,
            )
            blocks = [partial(block, drop_path=next(rates)) for _ in range(depth)]
            x = out[f"stage{stage}"] = Stage(blocks, name=f"stage{stage}")(x, train)
        if self.features_only:
            return out
        # The norm comes behind the mean; in front of it would be another network.
        x = norm(name="head_norm")(global_avg_pool(x), train=train)
        return self.classify(out, x, train, INIT)


def _widths(first: int) -> tuple[int, ...]:
    return tuple(first * 2**stage for stage in range(4))


_v2 = partial(ConvNeXt, grn=True, layer_scale=0.0)

# atto to nano: timm's own of version 1, which version 2 of the authors took over
convnext_atto = partial(ConvNeXt, depths=(2, 2, 6, 2), widths=_widths(40))
convnext_femto = partial(ConvNeXt, depths=(2, 2, 6, 2), widths=_widths(48))
convnext_pico = partial(ConvNeXt, depths=(2, 2, 6, 2), widths=_widths(64))
convnext_nano = partial(ConvNeXt, depths=(2, 2, 8, 2), widths=_widths(80))
convnext_tiny = partial(ConvNeXt, depths=(3, 3, 9, 3), widths=_widths(96))
convnext_small = partial(ConvNeXt, depths=(3, 3, 27, 3), widths=_widths(96))
convnext_base = partial(ConvNeXt, depths=(3, 3, 27, 3), widths=_widths(128))
convnext_large = partial(ConvNeXt, depths=(3, 3, 27, 3), widths=_widths(192))
convnext_xlarge = partial(ConvNeXt, depths=(3, 3, 27, 3), widths=_widths(256))
convnext_xxlarge = partial(ConvNeXt, depths=(3, 4, 30, 3), widths=_widths(384), norm_epsilon=1e-5)

convnextv2_atto = partial(_v2, depths=(2, 2, 6, 2), widths=_widths(40))
convnextv2_femto = partial(_v2, depths=(2, 2, 6, 2), widths=_widths(48))
convnextv2_pico = partial(_v2, depths=(2, 2, 6, 2), widths=_widths(64))
convnextv2_nano = partial(_v2, depths=(2, 2, 8, 2), widths=_widths(80))
convnextv2_tiny = partial(_v2, depths=(3, 3, 9, 3), widths=_widths(96))
convnextv2_small = partial(_v2, depths=(3, 3, 27, 3), widths=_widths(96))
convnextv2_base = partial(_v2, depths=(3, 3, 27, 3), widths=_widths(128))
convnextv2_large = partial(_v2, depths=(3, 3, 27, 3), widths=_widths(192))
convnextv2_huge = partial(_v2, depths=(3, 3, 27, 3), widths=_widths(352))

test_convnext = partial(
    ConvNeXt, depths=(1, 2, 4, 2), widths=(24, 32, 48, 64), act="gelu_tanh", norm_epsilon=1e-5
)
