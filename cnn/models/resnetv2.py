"""ResNet v2 (He et al. 2016, arXiv 1603.05027): normalisation and activation in front of each convolution.

With GroupNorm and standardised kernels it is BiT (Kolesnikov et al. 2020, arXiv 1912.11370). As in timm, the
3x3 convolution of a bottleneck strides. Stages are the residual stream before the next normalisation.
"""

from functools import partial
from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.layers.conv import Conv
from cnn.layers.residual import PreActBlock, ResNetStem
from cnn.layers.std_conv import StdConv
from cnn.models.resnet import ResNet
from cnn.shapes import Outputs


class ResNetV2(ResNet):
    """The family. Options as in `ResNet`, and

    Attributes:
      weight_standardization: of all kernels.
      zero_init: start the last kernel of every block at 0.
    """

    weight_standardization: bool = False
    zero_init: bool = False

    TINY: ClassVar = {**ResNet.TINY, "weight_standardization": True, "attention": "eca"}

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        norm, conv = self.make_norm(), StdConv if self.weight_standardization else Conv
        width = self.stem_width or self.widths[0]
        x = ResNetStem(width, self.stem, norm, self.dtype, preact=True, conv=conv, name="stem")(x, train)
        out = self.stages(x, train, PreActBlock, norm=norm, conv=conv)
        if self.features_only:
            return out
        x = nn.relu(norm(name="bn")(out[f"stage{len(out)}"], train=train))
        return self.classify(out, x, train)


D = {"stem": "deep", "shortcut": "avg_pool"}
BIT = {"norm": "group", "weight_standardization": True, "stem": "bit"}

resnetv2_18 = partial(ResNetV2, stage_sizes=(2, 2, 2, 2))
resnetv2_18d = partial(resnetv2_18, **D)
resnetv2_34 = partial(ResNetV2, stage_sizes=(3, 4, 6, 3))
resnetv2_34d = partial(resnetv2_34, **D)
resnetv2_50 = partial(ResNetV2, stage_sizes=(3, 4, 6, 3), bottleneck=True)
resnetv2_50d = partial(resnetv2_50, **D)
resnetv2_50t = partial(resnetv2_50, stem="tiered", shortcut="avg_pool")
resnetv2_50d_gn = partial(resnetv2_50d, norm="group")
resnetv2_101 = partial(ResNetV2, stage_sizes=(3, 4, 23, 3), bottleneck=True)
resnetv2_101d = partial(resnetv2_101, **D)
resnetv2_152 = partial(ResNetV2, stage_sizes=(3, 8, 36, 3), bottleneck=True)
resnetv2_152d = partial(resnetv2_152, **D)
resnetv2_50x1_bit = partial(resnetv2_50, **BIT)
resnetv2_50x3_bit = partial(resnetv2_50, width=3 * 64, **BIT)
resnetv2_101x1_bit = partial(resnetv2_101, **BIT)
resnetv2_101x3_bit = partial(resnetv2_101, width=3 * 64, **BIT)
resnetv2_152x2_bit = partial(resnetv2_152, width=2 * 64, **BIT)
resnetv2_152x4_bit = partial(resnetv2_152, width=4 * 64, **BIT)
