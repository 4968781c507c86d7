"""RegNet X and Y (Radosavovic et al. 2020, arXiv 2003.13678): every width follows from four numbers.

Y is X with squeeze-and-excitation. `stage_plan` is the rule; layer order, padding and parameter counts are those of
the authors' code, of timm and of torchvision, which rounds one step of the rule otherwise.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.attention import SqueezeExcite
from cnn.layers.blocks import ConvNorm, Stage
from cnn.layers.drop import StochasticDepth
from cnn.models.backbone import Backbone, Resolution, make_divisible
from cnn.shapes import Outputs

QUANTUM = 8  # block widths are multiples of it


def stage_plan(
    depth: int, w0: int, wa: float, wm: float, group_width: int, never_shrink: bool = False
) -> list[tuple[int, int, int]]:
    """(blocks, channels, channels per group) of each stage (section 3.3, equations 2 to 4).

    Block j would like to be `w0 + wa * j` wide; the nearest `w0 * wm ** s` with a whole s makes stages of that. Then
    each stage's width goes to the nearest multiple of its group width, or as `make_divisible` (`never_shrink`), which
    refuses to lose more than 10 %.
    """
    wanted = w0 + wa * np.arange(depth)
    steps = np.round(np.log(wanted / w0) / np.log(wm))
    widths = (np.round(w0 * wm**steps / QUANTUM) * QUANTUM).astype(int)
    plan = []
    for width, blocks in itertools.groupby(widths.tolist()):
        group = min(group_width, width)
        if never_shrink:
            width = make_divisible(float(width), group)
        else:
            width = round(width / group) * group
        plan.append((len(list(blocks)), width, group))
    return plan


class RegNetBlock(nn.Module):
    """1x1, grouped 3x3 (which strides), squeeze-and-excitation, 1x1, all of one width.

    Attributes:
      se_ratio: channels in the middle of squeeze-and-excitation, as a part of the block's *input* width; 0 for none.
    """

    width: int
    group_width: int
    strides: int
    dilation: int
    se_ratio: float
    norm: Callable[..., nn.Module]
    zero_init: bool
    drop_path: float
    dtype: Any

    # `train` is positional because `nn.remat` marks static arguments by position.
    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        layer = partial(ConvNorm, self.width, norm=self.norm, dtype=self.dtype)
        y = layer(1, name="conv1")(x, train)
        groups = self.width // self.group_width
        y = layer(3, self.strides, self.dilation, groups, name="conv2")(y, train)
        if self.se_ratio:
            y = SqueezeExcite(round(self.se_ratio * x.shape[-1]), dtype=self.dtype, name="se")(y)
        last_scale = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        y = layer(1, act="none", scale_init=last_scale, name="conv3")(y, train)
        if x.shape != y.shape:
            x = layer(1, self.strides, act="none", name="proj")(x, train)
        return nn.relu(x + StochasticDepth(self.drop_path, name="drop_path")(y, train=train))


class RegNet(Backbone):
    """The family; `depth` to `never_shrink` as in `stage_plan`.

    Attributes:
      se_ratio: as in `RegNetBlock`; Y has a quarter.
      stem_width: channels of the 3x3 convolution of stride 2 in front.
      zero_init: start every block as the identity.
    """

    depth: int = 21
    w0: int = 80
    wa: float = 42.63
    wm: float = 2.66
    group_width: int = 24
    never_shrink: bool = False
    se_ratio: float = 0.0
    stem_width: int = 32
    zero_init: bool = True

    TINY: ClassVar = {
        "depth": 5, "w0": 8, "wa": 4.0, "wm": 2.0, "group_width": 8, "stem_width": 8, "se_ratio": 0.25
    }  # fmt: skip

    def __post_init__(self) -> None:
        if self.depth < 1 or self.w0 < QUANTUM or self.w0 % QUANTUM or self.wa < 0 or self.wm <= 1:
            raise UserError(
                f"depth {self.depth}, w0 {self.w0}, wa {self.wa}, wm {self.wm} make no RegNet: depth must be positive, "
                f"w0 a multiple of {QUANTUM}, wa at least 0 and wm more than 1"
            )
        super().__post_init__()

    def stage_plan(self) -> list[tuple[int, int, int]]:
        """(blocks, channels, channels per group) of each stage."""
        return stage_plan(self.depth, self.w0, self.wa, self.wm, self.group_width, self.never_shrink)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited([4 * 2**stage for stage in range(len(self.stage_plan()))])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(width for _, width, _ in self.stage_plan())

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        norm, resolution, out = self.make_norm(), Resolution(self.output_stride), {}
        strides, _ = resolution.step(2)
        x = ConvNorm(self.stem_width, 3, strides, norm=norm, dtype=self.dtype, name="stem")(x, train)
        rates = iter(self.drop_path_rates(self.depth))
        for stage, (depth, width, group_width) in enumerate(self.stage_plan(), 1):
            blocks = []
            for index in range(depth):
                strides, dilation = resolution.step(2 if index == 0 else 1)
                block = partial(
                    self.block(RegNetBlock, stage),
                    width=width,
                    group_width=group_width,
                    strides=strides,
                    dilation=dilation,
                    se_ratio=self.se_ratio,
                    norm=norm,
                    zero_init=self.zero_init,
                    drop_path=next(rates),
                    dtype=self.dtype,
                )
                blocks.append(block)
            x = out[f"stage{stage}"] = Stage(blocks, name=f"stage{stage}")(x, train)
        return self.classify(out, x, train)


_x = partial(RegNet, se_ratio=0.0)
_y = partial(RegNet, se_ratio=0.25)

# Tables 9 and 10 of the paper; the number is hundreds of millions of multiply-adds.
regnetx_002 = partial(_x, depth=13, w0=24, wa=36.44, wm=2.49, group_width=8)
regnetx_004 = partial(_x, depth=22, w0=24, wa=24.48, wm=2.54, group_width=16)
regnetx_006 = partial(_x, depth=16, w0=48, wa=36.97, wm=2.24, group_width=24)
regnetx_008 = partial(_x, depth=16, w0=56, wa=35.73, wm=2.28, group_width=16)
regnetx_016 = partial(_x, depth=18, w0=80, wa=34.01, wm=2.25, group_width=24)
regnetx_032 = partial(_x, depth=25, w0=88, wa=26.31, wm=2.25, group_width=48)
regnetx_040 = partial(_x, depth=23, w0=96, wa=38.65, wm=2.43, group_width=40)
regnetx_064 = partial(_x, depth=17, w0=184, wa=60.83, wm=2.07, group_width=56)
regnetx_080 = partial(_x, depth=23, w0=80, wa=49.56, wm=2.88, group_width=120)
regnetx_120 = partial(_x, depth=19, w0=168, wa=73.36, wm=2.37, group_width=112)
regnetx_160 = partial(_x, depth=22, w0=216, wa=55.59, wm=2.1, group_width=128)
regnetx_320 = partial(_x, depth=23, w0=320, wa=69.86, wm=2.0, group_width=168)
regnety_002 = partial(_y, depth=13, w0=24, wa=36.44, wm=2.49, group_width=8)
regnety_004 = partial(_y, depth=16, w0=48, wa=27.89, wm=2.09, group_width=8)
regnety_006 = partial(_y, depth=15, w0=48, wa=32.54, wm=2.32, group_width=16)
regnety_008 = partial(_y, depth=14, w0=56, wa=38.84, wm=2.4, group_width=16)
regnety_016 = partial(_y, depth=27, w0=48, wa=20.71, wm=2.65, group_width=24)
regnety_032 = partial(_y, depth=21, w0=80, wa=42.63, wm=2.66, group_width=24)
regnety_040 = partial(_y, depth=22, w0=96, wa=31.41, wm=2.24, group_width=64)
regnety_064 = partial(_y, depth=25, w0=112, wa=33.22, wm=2.27, group_width=72)
regnety_080 = partial(_y, depth=17, w0=192, wa=76.82, wm=2.19, group_width=56)
regnety_120 = partial(_y, depth=19, w0=168, wa=73.36, wm=2.37, group_width=112)
regnety_160 = partial(_y, depth=18, w0=200, wa=106.23, wm=2.48, group_width=112)
regnety_320 = partial(_y, depth=20, w0=232, wa=115.89, wm=2.53, group_width=232)
# Larger than the paper's (Goyal et al. 2021, arXiv 2103.01988; Goyal et al. 2022, arXiv 2202.08360).
regnety_640 = partial(_y, depth=20, w0=352, wa=147.48, wm=2.4, group_width=328)
regnety_1280 = partial(_y, depth=27, w0=456, wa=160.83, wm=2.52, group_width=264)
regnety_2560 = partial(_y, depth=27, w0=640, wa=230.83, wm=2.53, group_width=373)
# Where torchvision's rounding makes another network.
regnetx_004_tv = partial(regnetx_004, never_shrink=True)
regnety_008_tv = partial(regnety_008, never_shrink=True)
regnety_080_tv = partial(regnety_080, never_shrink=True)
