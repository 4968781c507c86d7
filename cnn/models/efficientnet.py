"""EfficientNet B0-B7 (Tan & Le 2019, arXiv 1905.11946), v2 (Tan & Le 2021, arXiv 2104.00298), and Lite.

One table of rows, made wider, deeper and finer together. Any spatial rank. Stages are at strides 2, 4, 8, 16, 32
(`MobileBackbone`), so `stage4` holds two rows of the tables and `stage5` one or two.

`efficientnet_*` pad both sides alike, the `tf_` ones as TensorFlow does ('SAME'; epsilon 1e-3), where the weights of
the authors come from. PyTorch's libraries disagree on epsilon: timm has 1e-5 throughout, torchvision 1e-3 for B5-B7
and v2. Here B0-B5 and `rw` are timm's, B6, B7 and v2 torchvision's, because those are the trained ones.
"""

from collections.abc import Sequence
from functools import partial

from cnn.layers.attention import SqueezeExcite
from cnn.models.backbone import make_divisible
from cnn.models.mobile import FAN_OUT_UNIFORM, MobileBackbone, Plan, Row, lay_out

# Table 1 of the first paper.
B0 = (
    Row(1, 3, 1, 16, 1),
    Row(6, 3, 2, 24, 2),
    Row(6, 5, 2, 40, 2),
    Row(6, 3, 2, 80, 3),
    Row(6, 5, 1, 112, 3),
    Row(6, 5, 2, 192, 4),
    Row(6, 3, 1, 320, 1),
)
# Table 4 of the second paper is S; the others are of the authors' code.
V2_B = (
    Row(1, 3, 1, 16, 1, True),
    Row(4, 3, 2, 32, 2, True),
    Row(4, 3, 2, 48, 2, True),
    Row(4, 3, 2, 96, 3),
    Row(6, 3, 1, 112, 5),
    Row(6, 3, 2, 192, 8),
)
V2_S = (
    Row(1, 3, 1, 24, 2, True),
    Row(4, 3, 2, 48, 4, True),
    Row(4, 3, 2, 64, 4, True),
    Row(4, 3, 2, 128, 6),
    Row(6, 3, 1, 160, 9),
    Row(6, 3, 2, 256, 15),
)
V2_M = (
    Row(1, 3, 1, 24, 3, True),
    Row(4, 3, 2, 48, 5, True),
    Row(4, 3, 2, 80, 5, True),
    Row(4, 3, 2, 160, 7),
    Row(6, 3, 1, 176, 14),
    Row(6, 3, 2, 304, 18),
    Row(6, 3, 1, 512, 5),
)
V2_L = (
    Row(1, 3, 1, 32, 4, True),
    Row(4, 3, 2, 64, 7, True),
    Row(4, 3, 2, 96, 7, True),
    Row(4, 3, 2, 192, 10),
    Row(6, 3, 1, 224, 19),
    Row(6, 3, 2, 384, 25),
    Row(6, 3, 1, 640, 7),
)


class EfficientNet(MobileBackbone):
    """The family; the papers' stochastic depth and, in the variants, dropout are the defaults.

    Attributes:
      stem: channels of the stem, before `width`.
      depth: factor of the repeats, as `width` of the channels.
      lite: no squeeze-and-excitation, ReLU6, and stem, top and the repeats of the first and last row keep
        their size (the authors' Lite networks, for integer arithmetic).
      nearest: round channels to the nearest multiple of 8 (v2-B) and not up where that takes away over 10 %.
    """

    layout: Sequence[tuple] = B0
    stem: int = 32
    depth: float = 1.0
    lite: bool = False
    nearest: bool = False
    drop_path: float = 0.2

    TINY = {
        "layout": (
            Row(1, 3, 1, 8, 2, True),
            Row(2, 3, 2, 8, 1, True),
            Row(1, 5, 2, 8, 1),
            Row(2, 3, 2, 8, 2),
            Row(2, 3, 2, 8, 1),
        ),
        "stem": 8,
        "width": 1.0,
        "depth": 1.0,
    }

    def plan(self) -> Plan:
        act = "relu6" if self.lite else "silu"
        stem = self.stem if self.lite else self._wide(self.stem)
        blocks = lay_out(
            self.layout,
            stem,
            self._wide,
            self.depth,
            fixed_ends=self.lite,
            se=not self.lite,
            act=act,
        )
        top = 1280 if self.lite else self._wide(1280)
        se = partial(SqueezeExcite, act="silu")
        return Plan(stem, blocks, top=top, act=act, se=se, head_init=FAN_OUT_UNIFORM)

    def _wide(self, channels: int) -> int:
        if self.nearest:
            return max(int(channels * self.width / 8 + 0.5), 1) * 8
        return make_divisible(channels * self.width)


tensorflow = {"padding": "SAME", "norm_epsilon": 1e-3}

efficientnet_b0 = partial(EfficientNet, dropout=0.2)
efficientnet_b1 = partial(EfficientNet, depth=1.1, dropout=0.2)
efficientnet_b2 = partial(EfficientNet, width=1.1, depth=1.2, dropout=0.3)
efficientnet_b3 = partial(EfficientNet, width=1.2, depth=1.4, dropout=0.3)
efficientnet_b4 = partial(EfficientNet, width=1.4, depth=1.8, dropout=0.4)
efficientnet_b5 = partial(EfficientNet, width=1.6, depth=2.2, dropout=0.4)
efficientnet_b6 = partial(EfficientNet, width=1.8, depth=2.6, dropout=0.5, norm_epsilon=1e-3)
efficientnet_b7 = partial(EfficientNet, width=2.0, depth=3.1, dropout=0.5, norm_epsilon=1e-3)
tf_efficientnet_b0 = partial(efficientnet_b0, **tensorflow)
tf_efficientnet_b1 = partial(efficientnet_b1, **tensorflow)
tf_efficientnet_b2 = partial(efficientnet_b2, **tensorflow)
tf_efficientnet_b3 = partial(efficientnet_b3, **tensorflow)
tf_efficientnet_b4 = partial(efficientnet_b4, **tensorflow)
tf_efficientnet_b5 = partial(efficientnet_b5, **tensorflow)
tf_efficientnet_b6 = partial(efficientnet_b6, **tensorflow)
tf_efficientnet_b7 = partial(efficientnet_b7, **tensorflow)

efficientnet_lite0 = partial(EfficientNet, lite=True, dropout=0.2)
efficientnet_lite1 = partial(efficientnet_lite0, depth=1.1)
efficientnet_lite2 = partial(EfficientNet, lite=True, width=1.1, depth=1.2, dropout=0.3)
efficientnet_lite3 = partial(EfficientNet, lite=True, width=1.2, depth=1.4, dropout=0.3)
efficientnet_lite4 = partial(EfficientNet, lite=True, width=1.4, depth=1.8, dropout=0.3)
tf_efficientnet_lite0 = partial(efficientnet_lite0, **tensorflow)
tf_efficientnet_lite1 = partial(efficientnet_lite1, **tensorflow)
tf_efficientnet_lite2 = partial(efficientnet_lite2, **tensorflow)
tf_efficientnet_lite3 = partial(efficientnet_lite3, **tensorflow)
tf_efficientnet_lite4 = partial(efficientnet_lite4, **tensorflow)

efficientnet_v2_s = partial(EfficientNet, layout=V2_S, stem=24, dropout=0.2, norm_epsilon=1e-3)
efficientnet_v2_m = partial(EfficientNet, layout=V2_M, stem=24, dropout=0.3, norm_epsilon=1e-3)
efficientnet_v2_l = partial(EfficientNet, layout=V2_L, stem=32, dropout=0.4, norm_epsilon=1e-3)
tf_efficientnetv2_s = partial(efficientnet_v2_s, **tensorflow)
tf_efficientnetv2_m = partial(efficientnet_v2_m, **tensorflow)
tf_efficientnetv2_l = partial(efficientnet_v2_l, **tensorflow)
tf_efficientnetv2_b0 = partial(EfficientNet, layout=V2_B, nearest=True, dropout=0.2, **tensorflow)
tf_efficientnetv2_b1 = partial(tf_efficientnetv2_b0, depth=1.1)
tf_efficientnetv2_b2 = partial(tf_efficientnetv2_b0, width=1.1, depth=1.2, dropout=0.3)
tf_efficientnetv2_b3 = partial(tf_efficientnetv2_b0, width=1.2, depth=1.4, dropout=0.3)
efficientnetv2_rw_t = partial(EfficientNet, layout=V2_S, stem=24, width=0.8, depth=0.9, dropout=0.2)
