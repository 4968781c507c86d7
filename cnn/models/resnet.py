"""ResNet (He et al. 2015, arXiv 1512.03385), the v1.5 of today: the 3x3 convolution of a bottleneck strides.

One family for 1-D, 2-D and 3-D inputs, with what later papers changed as options: the deep stem and pooled
shortcut of ResNet-D (He et al. 2018, arXiv 1812.01187), cardinality (ResNeXt, Xie et al. 2016, arXiv
1611.05431), width (Zagoruyko & Komodakis 2016, arXiv 1605.07146), SE and ECA attention. Zero initialisation of
each block's last scale is from Goyal et al. 2017 (arXiv 1706.02677). Layer order, padding and parameter counts
are those of torchvision and timm, so that their weights fit.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.errors import UserError, unknown
from cnn.layers.blocks import Stage
from cnn.layers.residual import ATTENTION, EXPANSION, SHORTCUTS, STEMS, ResNetBlock, ResNetStem
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs


class ResNet(Backbone):
    """The family.

    Attributes:
      stage_sizes: blocks per stage.
      width: channels of the first stage (before the bottleneck's factor 4), which double from stage to stage;
        or those of every stage.
      bottleneck: the kind of block, one for all stages or one for each.
      stem: 'imagenet' (7x7 stride 2, then 3x3 max pool stride 2), 'deep' (three 3x3 in place of the 7x7),
        'tiered' (timm's "-t": the first of them with three eighths of the channels), 'caffe' (as 'imagenet',
        but the pool pads the end only), 'bit' (the pool pads zeros), 'strided' (3x3 stride 2) or 'cifar' (3x3).
      stem_width: channels of the stem, 0 for those of the first stage.
      shortcut: where a block strides, 'conv1x1' with stride, 'avg_pool' before a 1x1 (ResNet-D) or 'conv3x3'.
      cardinality, base_width: groups of a bottleneck's 3x3, and their channels where `width` is 64.
      reduce_first: divides the channels of a bottleneck's first 1x1 (2 in SENet-154).
      stride_first: a bottleneck strides in its first 1x1, as the paper's own code did.
      attention: 'none', 'se' or 'eca', at the end of each residual branch.
      zero_init: start every block as the identity.
    """

    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    width: int | Sequence[int] = 64
    bottleneck: bool | Sequence[bool] = False
    stem: str = "imagenet"
    stem_width: int = 0
    shortcut: str = "conv1x1"
    cardinality: int = 1
    base_width: int = 64
    reduce_first: int = 1
    stride_first: bool = False
    attention: str = "none"
    zero_init: bool = True

    TINY: ClassVar = {
        "stage_sizes": (1, 2, 1),
        "width": (8, 4, 4),
        "bottleneck": (False, True, True),
        "stem": "tiered",
        "shortcut": "avg_pool",
        "cardinality": 2,
        "base_width": 32,
        "attention": "se",
    }

    def __post_init__(self) -> None:
        choices = (("stem", STEMS), ("shortcut", SHORTCUTS), ("attention", ATTENTION))
        for option, valid in choices:
            if getattr(self, option) not in valid:
                raise unknown(option, getattr(self, option), valid)
        for option in ("width", "bottleneck"):
            value = getattr(self, option)
            if isinstance(value, Sequence) and len(value) != len(self.stage_sizes):
                raise UserError(f"{option} {tuple(value)} is not for {len(self.stage_sizes)} stages")
        if (self.cardinality, self.base_width) != (1, 64) and not any(self.bottlenecks):
            raise UserError("cardinality and base_width need blocks with bottleneck=True")
        super().__post_init__()

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage before the bottleneck's factor."""
        if isinstance(self.width, int):
            return tuple(self.width * 2**stage for stage in range(len(self.stage_sizes)))
        return tuple(self.width)

    @property
    def bottlenecks(self) -> tuple[bool, ...]:
        """The kind of block of each stage."""
        if isinstance(self.bottleneck, bool):
            return (self.bottleneck,) * len(self.stage_sizes)
        return tuple(self.bottleneck)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited([STEMS[self.stem].stride * 2**stage for stage in range(len(self.stage_sizes))])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        factors = (EXPANSION if bottleneck else 1 for bottleneck in self.bottlenecks)
        return tuple(width * factor for width, factor in zip(self.widths, factors, strict=True))

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        norm = self.make_norm()
        x = ResNetStem(self.stem_width or self.widths[0], self.stem, norm, self.dtype, name="stem")(x, train)
        out = self.stages(x, train, ResNetBlock, norm=norm)
        return self.classify(out, out[f"stage{len(out)}"], train)

    def stages(self, x: Float[Array, "b *space c"], train: bool, block: type[nn.Module], **layers: Any) -> Outputs:
        """The features of all stages, made of `block`; `layers` are its `norm` and `conv`."""
        options = ("cardinality", "base_width", "reduce_first", "stride_first", "shortcut", "attention", "zero_init")
        common = {option: getattr(self, option) for option in options} | {"dtype": self.dtype} | layers
        resolution = Resolution(self.output_stride)
        resolution.step(STEMS[self.stem].stride)
        rates = iter(self.drop_path_rates(sum(self.stage_sizes)))
        out: Outputs = {}
        for stage, size in enumerate(self.stage_sizes, start=1):
            blocks = []
            for index in range(size):
                plain = 2 if stage > 1 and index == 0 else 1
                strides, dilation = resolution.step(plain)
                blocks.append(
                    partial(
                        self.block(block, stage),
                        width=self.widths[stage - 1],
                        bottleneck=self.bottlenecks[stage - 1],
                        shrinks=plain > 1,
                        strides=strides,
                        dilations=(dilation, resolution.dilation),
                        drop_path=next(rates),
                        **common,
                    )
                )
            x = out[f"stage{stage}"] = Stage(blocks, name=f"stage{stage}")(x, train)
        return out


D = {"stem": "deep", "shortcut": "avg_pool"}  # as in timm's names: resnet50d, resnet50t
T = {"stem": "tiered", "shortcut": "avg_pool"}
SE, ECA = {"attention": "se"}, {"attention": "eca"}

resnet10t = partial(ResNet, stage_sizes=(1, 1, 1, 1), **T)
resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2))
resnet18d = partial(resnet18, **D)
resnet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3))
resnet34d = partial(resnet34, **D)
resnet14t = partial(ResNet, stage_sizes=(1, 1, 1, 1), bottleneck=True, **T)
resnet26 = partial(ResNet, stage_sizes=(2, 2, 2, 2), bottleneck=True)
resnet26d = partial(resnet26, **D)
resnet26t = partial(resnet26, **T)
resnet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), bottleneck=True)
resnet50c = partial(resnet50, stem="deep")
resnet50d = partial(resnet50, **D)
resnet50s = partial(resnet50, stem="deep", stem_width=128)
resnet50t = partial(resnet50, **T)
resnet50_gn = partial(resnet50, norm="group")
resnet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), bottleneck=True)
resnet101d = partial(resnet101, **D)
resnet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), bottleneck=True)
resnet152d = partial(resnet152, **D)
resnet200 = partial(ResNet, stage_sizes=(3, 24, 36, 3), bottleneck=True)
resnet200d = partial(resnet200, **D)
resnext50_32x4d = partial(resnet50, cardinality=32, base_width=4)
resnext50d_32x4d = partial(resnext50_32x4d, **D)
resnext101_32x4d = partial(resnet101, cardinality=32, base_width=4)
resnext101_32x8d = partial(resnet101, cardinality=32, base_width=8)
resnext101_64x4d = partial(resnet101, cardinality=64, base_width=4)
wide_resnet50_2 = partial(resnet50, base_width=128)
wide_resnet101_2 = partial(resnet101, base_width=128)
seresnet18 = partial(resnet18, **SE)
seresnet34 = partial(resnet34, **SE)
seresnet50 = partial(resnet50, **SE)
seresnet101 = partial(resnet101, **SE)
seresnet152 = partial(resnet152, **SE)
seresnext50_32x4d = partial(resnext50_32x4d, **SE)
seresnext101_32x4d = partial(resnext101_32x4d, **SE)
legacy_seresnet50 = partial(seresnet50, stem="caffe", stride_first=True)
legacy_seresnet101 = partial(seresnet101, stem="caffe", stride_first=True)
legacy_seresnet152 = partial(seresnet152, stem="caffe", stride_first=True)
senet154 = partial(
    seresnet152, stem="deep", stem_width=128, shortcut="conv3x3", cardinality=64, base_width=4, reduce_first=2
)
ecaresnet50d = partial(resnet50d, **ECA)
ecaresnet50t = partial(resnet50t, **ECA)
ecaresnet101d = partial(resnet101d, **ECA)
test_resnet = partial(
    ResNet, stage_sizes=(1, 1, 1, 1), width=(32, 48, 48, 96), bottleneck=(False, False, True, False), **D
)
resnet18_cifar = partial(resnet18, stem="cifar")
resnet_small = partial(ResNet, stage_sizes=(1, 1, 1), width=16, stem="cifar")
