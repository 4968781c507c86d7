"""ConvMixer (Trockman & Kolter 2022, arXiv 2201.09792): patches, then the same block at one resolution throughout."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.blocks import Stage, activation
from cnn.layers.conv import Conv, default_uniform, fan_in_uniform
from cnn.layers.drop import StochasticDepth
from cnn.models.backbone import Backbone
from cnn.shapes import Outputs


class Mix(nn.Module):
    """Convolution with bias, activation, normalisation, in this order.

    Attributes as in `Conv` and `ConvMixer`.
    """

    features: int
    kernel_size: int
    strides: int
    groups: int
    act: str
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        fan_in = self.kernel_size ** (x.ndim - 2) * x.shape[-1] // self.groups
        init = fan_in_uniform(fan_in)  # the authors take PyTorch's defaults
        x = Conv(
            self.features,
            self.kernel_size,
            self.strides,
            "SAME" if self.strides == 1 else "VALID",
            groups=self.groups,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=init,
            bias_init=init,
            name="conv",
        )(x)
        return self.norm(name="bn")(activation(self.act)(x), train=train)


class ConvMixerBlock(nn.Module):
    """Depthwise convolution with a shortcut mixes places, a 1x1 convolution mixes channels (equations 2 and 3)."""

    kernel_size: int
    act: str
    norm: Callable[..., nn.Module]
    drop_path: float
    dtype: Any

    # `train` is positional because `nn.remat` marks static arguments by position.
    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *space c"]:
        width = x.shape[-1]
        mix = partial(Mix, width, strides=1, act=self.act, norm=self.norm, dtype=self.dtype)
        y = mix(kernel_size=self.kernel_size, groups=width, name="depthwise")(x, train)
        x = x + StochasticDepth(self.drop_path, name="drop_path")(y, train=train)
        return mix(kernel_size=1, groups=1, name="pointwise")(x, train)


class ConvMixer(Backbone):
    """The family; ConvMixer-`width`/`depth` in the paper's notation. All blocks are one stage.

    Attributes:
      width: channels.
      depth: blocks.
      kernel_size: side of the depthwise window.
      patch: side of the stem's patches in pixels, which is the stride of all features.
      act: a name of ACTIVATIONS.
    """

    width: int = 1536
    depth: int = 20
    kernel_size: int = 9
    patch: int = 7
    act: str = "gelu"

    TINY: ClassVar = {"width": 8, "depth": 2, "kernel_size": 3}

    def __post_init__(self) -> None:
        if self.patch > self.output_stride:
            raise UserError(f"output_stride {self.output_stride} is finer than the patches, {self.patch} pixels wide")
        activation(self.act)
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, of the one stage."""
        return (self.patch,)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of the one stage."""
        return (self.width,)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        shared = {"act": self.act, "norm": self.make_norm(), "dtype": self.dtype}
        x = Mix(self.width, self.patch, self.patch, 1, **shared, name="stem")(x, train)
        block = partial(self.block(ConvMixerBlock, stage=1), self.kernel_size, **shared)
        blocks = [partial(block, drop_path=rate) for rate in self.drop_path_rates(self.depth)]
        x = Stage(blocks, name="stage1")(x, train)
        return self.classify({"stage1": x}, x, train, default_uniform)


convmixer_768_32 = partial(ConvMixer, width=768, depth=32, kernel_size=7, act="relu")
convmixer_1536_20 = partial(ConvMixer, width=1536, depth=20)
convmixer_1024_20_ks9_p14 = partial(ConvMixer, width=1024, depth=20, patch=14)
