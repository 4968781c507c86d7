"""MobileNet v1 (Howard et al. 2017, arXiv 1704.04861): a depthwise and a 1x1 convolution in place of each 3x3.

Stages are at strides 2, 4, 8, 16, 32. ReLU6 as in the authors' code, without a shortcut anywhere.
"""

from collections.abc import Sequence
from functools import partial

from cnn.layers.inverted_residual import Block
from cnn.models.backbone import make_divisible
from cnn.models.mobile import MobileBackbone, Plan

# Table 1: channels, stride of the first, repeats.
LAYOUT = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 2, 6), (1024, 2, 2))


class MobileNetV1(MobileBackbone):
    """The family. A line of `layout` is (channels, stride of the first block, blocks); `width` is alpha."""

    layout: Sequence[tuple] = LAYOUT

    TINY = {"layout": ((16, 1, 1), (16, 2, 2), (16, 2, 1), (16, 2, 1), (16, 2, 1)), "width": 0.5}

    def plan(self) -> Plan:
        blocks = [
            Block(
                make_divisible(channels * self.width),
                stride=stride if repeat == 0 else 1,
                skip=False,
                last_act="relu6",
            )
            for channels, stride, repeats in self.layout
            for repeat in range(repeats)
        ]
        return Plan(make_divisible(32 * self.width), blocks)


mobilenetv1_100 = partial(MobileNetV1)
mobilenetv1_125 = partial(MobileNetV1, width=1.25)
mobilenetv1_075 = partial(MobileNetV1, width=0.75)
mobilenetv1_050 = partial(MobileNetV1, width=0.5)
mobilenetv1_025 = partial(MobileNetV1, width=0.25)
