"""MobileNet v2 (Sandler et al. 2018, arXiv 1801.04381): inverted residuals. Stages at strides 2, 4, 8, 16, 32."""

from collections.abc import Sequence
from functools import partial

from cnn.models.backbone import make_divisible
from cnn.models.mobile import MobileBackbone, Plan, Row, lay_out

# Table 2.
LAYOUT = (
    Row(1, 3, 1, 16, 1),
    Row(6, 3, 2, 24, 2),
    Row(6, 3, 2, 32, 3),
    Row(6, 3, 2, 64, 4),
    Row(6, 3, 1, 96, 3),
    Row(6, 3, 2, 160, 3),
    Row(6, 3, 1, 320, 1),
)


class MobileNetV2(MobileBackbone):
    """The family.

    Attributes:
      width: factor of the channels; the last convolution is never below 1280 (section 5.1).
      depth: factor of the repeats, rounded up.
      fixed_ends: stem, last convolution and the repeats of the first and last row keep their size (timm's `d`).
    """

    layout: Sequence[tuple] = LAYOUT
    depth: float = 1.0
    fixed_ends: bool = False
    dropout: float = 0.2

    TINY = {
        "layout": (
            Row(1, 3, 1, 8, 1),
            Row(2, 3, 2, 8, 2),
            Row(2, 3, 2, 8, 1),
            Row(2, 3, 2, 8, 1),
            Row(2, 3, 2, 8, 1),
        ),
        "width": 0.5,
    }

    def plan(self) -> Plan:
        def wide(channels: int) -> int:
            return make_divisible(channels * self.width)

        stem = 32 if self.fixed_ends else wide(32)
        blocks = lay_out(self.layout, stem, wide, self.depth, self.fixed_ends)
        return Plan(stem, blocks, top=1280 if self.fixed_ends else max(1280, wide(1280)))


mobilenetv2_035 = partial(MobileNetV2, width=0.35)
mobilenetv2_050 = partial(MobileNetV2, width=0.5)
mobilenetv2_075 = partial(MobileNetV2, width=0.75)
mobilenetv2_100 = partial(MobileNetV2)
mobilenetv2_140 = partial(MobileNetV2, width=1.4)
mobilenetv2_110d = partial(MobileNetV2, width=1.1, depth=1.2, fixed_ends=True)
mobilenetv2_120d = partial(MobileNetV2, width=1.2, depth=1.4, fixed_ends=True)
