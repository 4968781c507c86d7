"""MobileNet v3 (Howard et al. 2019, arXiv 1905.02244): hard-swish, squeeze-and-excitation, a dense layer at the end.

Stages are at strides 2, 4, 8, 16, 32, and the last 1x1 convolution (960 or 576 channels), which is in front of
the pooling's dense layer, belongs to `stage5`, as in timm and in torchvision's detectors. `mobilenetv3_*` have
timm's epsilon, 1e-5; weights of torchvision want `norm_epsilon=1e-3`, those of TensorFlow are the `tf_` variants.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax

from cnn.layers.attention import SqueezeExcite
from cnn.layers.inverted_residual import Block
from cnn.models.backbone import make_divisible
from cnn.models.mobile import MobileBackbone, Plan

HARD = "hard_swish"


class Line(NamedTuple):
    """A line of the paper's tables: one block. `expanded` and `channels` are those of width 1."""

    kernel: int
    expanded: int
    channels: int
    se: bool
    act: str
    stride: int


# Table 1.
LARGE = (
    Line(3, 16, 16, False, "relu", 1),
    Line(3, 64, 24, False, "relu", 2),
    Line(3, 72, 24, False, "relu", 1),
    Line(5, 72, 40, True, "relu", 2),
    Line(5, 120, 40, True, "relu", 1),
    Line(5, 120, 40, True, "relu", 1),
    Line(3, 240, 80, False, HARD, 2),
    Line(3, 200, 80, False, HARD, 1),
    Line(3, 184, 80, False, HARD, 1),
    Line(3, 184, 80, False, HARD, 1),
    Line(3, 480, 112, True, HARD, 1),
    Line(3, 672, 112, True, HARD, 1),
    Line(5, 672, 160, True, HARD, 2),
    Line(5, 960, 160, True, HARD, 1),
    Line(5, 960, 160, True, HARD, 1),
)
# Table 2.
SMALL = (
    Line(3, 16, 16, True, "relu", 2),
    Line(3, 72, 24, False, "relu", 2),
    Line(3, 88, 24, False, "relu", 1),
    Line(5, 96, 40, True, HARD, 2),
    Line(5, 240, 40, True, HARD, 1),
    Line(5, 240, 40, True, HARD, 1),
    Line(5, 120, 48, True, HARD, 1),
    Line(5, 144, 48, True, HARD, 1),
    Line(5, 288, 96, True, HARD, 2),
    Line(5, 576, 96, True, HARD, 1),
    Line(5, 576, 96, True, HARD, 1),
)


class MobileNetV3(MobileBackbone):
    """The family.

    Attributes:
      last: channels of the last 1x1 convolution, before `width`.
      hidden: of the dense layer behind the pooling, `pre_logits`; of no width (the authors' code, timm).
      width: factor of the channels; below 0.75 the stem keeps its 16.
    """

    layout: Sequence[tuple] = LARGE
    last: int = 960
    hidden: int = 1280
    dropout: float = 0.2

    TINY = {
        "layout": (
            Line(3, 16, 16, True, "relu", 2),
            Line(3, 24, 16, False, "relu", 2),
            Line(5, 24, 16, True, HARD, 1),
            Line(3, 24, 16, False, HARD, 2),
            Line(3, 24, 16, False, HARD, 2),
        ),
        "last": 24,
        "hidden": 32,
    }

    def plan(self) -> Plan:
        def wide(channels: int) -> int:
            return make_divisible(channels * self.width)

        stem = wide(16) if self.width >= 0.75 else 16
        plain, before, blocks = 16, stem, []  # channels so far: of width 1, and ours
        for line in map(lambda fields: Line(*fields), self.layout):
            # What is inside follows the rounded input, in the table's proportion.
            expanded = make_divisible(before * line.expanded / plain)
            block = Block(
                channels=wide(line.channels),
                kernel=line.kernel,
                stride=line.stride,
                expanded=expanded if line.expanded != plain else 0,
                reduced=make_divisible(expanded / 4) if line.se else 0,
                act=line.act,
            )
            blocks.append(block)
            plain, before = line.channels, block.channels
        blocks.append(Block(wide(self.last), kernel=1, fused=True, skip=False, last_act=HARD))
        se = partial(SqueezeExcite, gate=jax.nn.hard_sigmoid)
        return Plan(stem, blocks, hidden=self.hidden, act=HARD, se=se)


small = {"layout": SMALL, "last": 576, "hidden": 1024}
tensorflow = {"padding": "SAME", "norm_epsilon": 1e-3}

mobilenetv3_large_100 = partial(MobileNetV3)
mobilenetv3_large_075 = partial(MobileNetV3, width=0.75)
mobilenetv3_small_100 = partial(MobileNetV3, **small)
mobilenetv3_small_075 = partial(MobileNetV3, **small, width=0.75)
mobilenetv3_small_050 = partial(MobileNetV3, **small, width=0.5)
tf_mobilenetv3_large_100 = partial(MobileNetV3, **tensorflow)
tf_mobilenetv3_large_075 = partial(MobileNetV3, width=0.75, **tensorflow)
tf_mobilenetv3_small_100 = partial(MobileNetV3, **small, **tensorflow)
tf_mobilenetv3_small_075 = partial(MobileNetV3, **small, width=0.75, **tensorflow)
