"""Networks without normalisation: NFNet (Brock et al. 2021, arXiv 2102.06171) and NF-ResNet (arXiv 2101.08692).

Standardised kernels, activations scaled to unit variance and residual branches scaled by what the variance of
the stream has grown to keep signals at their size. Train them with adaptive gradient clipping. `nfnet_*` and
`nf_*` are timm's form, with the activations' gamma in the kernels; `dm_nfnet_*` are DeepMind's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import UserError, unknown
from cnn.layers.attention import EfficientChannelAttention, SqueezeExcite
from cnn.layers.blocks import ACTIVATIONS, Stage
from cnn.layers.drop import StochasticDepth
from cnn.layers.pool import avg_pool, max_pool
from cnn.layers.std_conv import ScaledStdConv
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs

# 1 / standard deviation of act(z) for a standard normal z.
GAMMA = {"relu": 1.7139588594436646, "gelu": 1.7015043497085571, "silu": 1.7881293296813965}
# (window, stride, eighths of the channels) of each convolution; whether a 3x3 max pool of stride 2 follows.
STEMS = {
    "quad": (((3, 2, 1), (3, 1, 2), (3, 1, 4), (3, 2, 8)), False),
    "imagenet": (((7, 2, 8),), True),
}
ATTENTION = ("none", "se", "eca")
linear = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class NFBlock(nn.Module):
    """act - 1x1 - act - 3x3 (- act - 3x3) - act - 1x1 - attention, times `alpha`, added to the input.

    Attributes as in `NFNet`, and
      inner: channels between the 1x1 convolutions, in `groups` groups.
      beta: 1 / the standard deviation that the input is expected to have.
      shrinks: the plain network strides here, which `strides` says only without dilation.
      dilations: of the first and of the second 3x3 convolution.
      conv, act: make a convolution, apply the activation.
    """

    features: int
    inner: int
    groups: int
    shrinks: bool
    strides: int
    dilations: tuple[int, int]
    beta: float
    alpha: float
    extra_conv: bool
    attention: str
    se_ratio: float
    skip_gain: bool
    conv: Callable[..., nn.Module]
    act: Callable[[Array], Array]
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        y, shortcut = self.act(x) * self.beta, x
        if self.shrinks or x.shape[-1] != self.features:
            shortcut = avg_pool(y, 2, self.strides, "SAME") if self.shrinks else y
            shortcut = self.conv(self.features, 1, name="proj")(shortcut)
        y = self.conv(self.inner, 1, name="conv1")(y)
        first, second = self.dilations
        how = {"groups": self.groups, "dilation": first}
        y = self.conv(self.inner, 3, self.strides, name="conv2", **how)(self.act(y))
        if self.extra_conv:
            how["dilation"] = second
            y = self.conv(self.inner, 3, name="conv2b", **how)(self.act(y))
        start = nn.initializers.ones if self.skip_gain else nn.initializers.zeros
        y = self.conv(self.features, 1, gain_init=start, name="conv3")(self.act(y))
        if self.attention == "se":
            reduced = 8 * max(1, int(self.features * self.se_ratio / 8 + 0.5))
            y = 2 * SqueezeExcite(reduced, dtype=self.dtype, name="se")(y)
        elif self.attention == "eca":
            y = 2 * EfficientChannelAttention(dtype=self.dtype, name="eca")(y)
        y = StochasticDepth(self.drop_path, name="drop_path")(y, train=train)
        if self.skip_gain:
            y = y * self.param("skip_gain", nn.initializers.zeros, (), jnp.float32).astype(self.dtype)
        return y * self.alpha + shortcut


class NFStem(nn.Module):
    """What is in front of the first stage; `kind` is one of STEMS, the rest as in `NFBlock` and `NFNet`."""

    kind: str
    width: int
    conv: Callable[..., nn.Module]
    act: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *out o"]:
        layers, pooled = STEMS[self.kind]
        for index, (window, strides, eighths) in enumerate(layers, start=1):
            x = self.act(x) if index > 1 else x
            x = self.conv(self.width * eighths // 8, window, strides, name=f"conv{index}")(x)
        return max_pool(x, 3, 2, padding=1) if pooled else x


class NFNet(Backbone):
    """The family. There is nothing to normalise: `norm`, `bn` and `norm_epsilon` change nothing.

    Stages are the residual stream before the next activation.

    Attributes:
      stage_sizes, channels: blocks and channels per stage.
      stem: 'quad' (four 3x3, two of them with stride 2) or 'imagenet' (7x7, then max pool).
      stem_width: channels of the stem.
      bottleneck: channels inside a block, as a part of the block's.
      group_size: channels per group of the 3x3 convolutions, 0 for one group.
      extra_conv: a second 3x3 convolution in each block.
      last_width: channels of a 1x1 convolution behind the last stage, 0 for none.
      activation: 'relu', 'gelu' or 'silu'.
      gamma_in_act: the activation's scale is applied where it is due, not in every kernel.
      attention: 'none', 'se' (with `se_ratio` of the channels in between) or 'eca'.
      skip_gain: each branch is multiplied by a learned number that starts at 0 (SkipInit, De & Smith 2020);
        otherwise it is the gain of its last kernel that does.
      same_padding: TensorFlow's 'SAME' instead of both sides alike.
      alpha: weight of a block's branch.
      std_epsilon: added to a kernel's variance.
    """

    norm: str = "none"
    stage_sizes: Sequence[int] = (1, 2, 6, 3)
    channels: Sequence[int] = (256, 512, 1536, 1536)
    stem: str = "quad"
    stem_width: int = 128
    bottleneck: float = 0.5
    group_size: int = 128
    extra_conv: bool = True
    last_width: int = 3072
    activation: str = "gelu"
    gamma_in_act: bool = False
    attention: str = "se"
    se_ratio: float = 0.5
    skip_gain: bool = False
    same_padding: bool = False
    alpha: float = 0.2
    std_epsilon: float = 1e-5

    TINY: ClassVar = {
        "stage_sizes": (1, 2, 1),
        "channels": (8, 16, 16),
        "stem_width": 16,
        "group_size": 4,
        "last_width": 24,
        "skip_gain": True,
    }

    def __post_init__(self) -> None:
        choices = (("stem", STEMS), ("activation", GAMMA), ("attention", ATTENTION))
        for option, valid in choices:
            if getattr(self, option) not in valid:
                raise unknown(option, getattr(self, option), valid)
        if len(self.channels) != len(self.stage_sizes):
            raise UserError(f"channels {tuple(self.channels)} are not for {len(self.stage_sizes)} stages")
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited([4 * 2**stage for stage in range(len(self.stage_sizes))])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(self.channels)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        gamma, plain = GAMMA[self.activation], ACTIVATIONS[self.activation]
        act = (lambda x: plain(x) * gamma) if self.gamma_in_act else plain
        conv = partial(
            ScaledStdConv,
            use_bias=True,
            padding="SAME" if self.same_padding else None,
            gamma=1.0 if self.gamma_in_act else gamma,
            epsilon=self.std_epsilon,
            kernel_init=linear,
            dtype=self.dtype,
        )
        x = NFStem(self.stem, self.stem_width, conv, act, name="stem")(x)
        options = ("alpha", "extra_conv", "attention", "se_ratio", "skip_gain", "dtype")
        common = {option: getattr(self, option) for option in options} | {"conv": conv, "act": act}
        resolution = Resolution(self.output_stride)
        resolution.step(4)
        rates = iter(self.drop_path_rates(sum(self.stage_sizes)))
        variance = 1.0
        out: Outputs = {}
        for stage, (size, features) in enumerate(zip(self.stage_sizes, self.channels, strict=True), start=1):
            inner = 8 * max(1, int(features * self.bottleneck / 8 + 0.5))
            groups = inner // self.group_size if self.group_size else 1
            blocks = []
            for index in range(size):
                stride = 2 if stage > 1 and index == 0 else 1
                strides, dilation = resolution.step(stride)
                blocks.append(
                    partial(
                        self.block(NFBlock, stage),
                        features=features,
                        inner=groups * self.group_size or inner,
                        groups=groups,
                        shrinks=stride > 1,
                        strides=strides,
                        dilations=(dilation, resolution.dilation),
                        beta=variance**-0.5,
                        drop_path=next(rates),
                        **common,
                    )
                )
                # The shortcut of a stage's first block is a convolution, whose output has variance 1.
                variance = (1.0 if index == 0 else variance) + self.alpha**2
            x = out[f"stage{stage}"] = Stage(blocks, name=f"stage{stage}")(x, train)
        if self.features_only:
            return out
        if self.last_width:
            x = conv(self.last_width, 1, name="last_conv")(x)
        return self.classify(out, act(x), train)


F = [(1 * n, 2 * n, 6 * n, 3 * n) for n in range(1, 9)]  # blocks of F0, F1, ..., F7
DM = {"gamma_in_act": True, "same_padding": True, "skip_gain": True}
LIGHT = {"group_size": 64, "bottleneck": 0.25, "activation": "silu"}
ECA = {"attention": "eca"}
RES = {"channels": (256, 512, 1024, 2048), "stem": "imagenet", "stem_width": 64, "last_width": 0}
RES |= {"bottleneck": 0.25, "group_size": 0, "extra_conv": False, "activation": "relu"}

nfnet_f0, nfnet_f1, nfnet_f2, nfnet_f3, nfnet_f4, nfnet_f5, nfnet_f6, nfnet_f7 = (
    partial(NFNet, stage_sizes=sizes) for sizes in F
)
dm_nfnet_f0, dm_nfnet_f1, dm_nfnet_f2, dm_nfnet_f3, dm_nfnet_f4, dm_nfnet_f5, dm_nfnet_f6 = (
    partial(NFNet, stage_sizes=sizes, **DM) for sizes in F[:7]
)
nfnet_l0 = partial(NFNet, stage_sizes=F[0], last_width=2304, se_ratio=0.25, **LIGHT)
eca_nfnet_l0 = partial(NFNet, stage_sizes=F[0], last_width=2304, **LIGHT, **ECA)
eca_nfnet_l1 = partial(NFNet, stage_sizes=F[1], **LIGHT, **ECA)
eca_nfnet_l2 = partial(NFNet, stage_sizes=F[2], **LIGHT, **ECA)
eca_nfnet_l3 = partial(NFNet, stage_sizes=F[3], **LIGHT, **ECA)
nf_resnet26 = partial(NFNet, stage_sizes=(2, 2, 2, 2), attention="none", **RES)
nf_resnet50 = partial(NFNet, stage_sizes=(3, 4, 6, 3), attention="none", **RES)
nf_resnet101 = partial(NFNet, stage_sizes=(3, 4, 23, 3), attention="none", **RES)
nf_seresnet50 = partial(nf_resnet50, attention="se", se_ratio=1 / 16)
nf_ecaresnet50 = partial(nf_resnet50, attention="eca")
