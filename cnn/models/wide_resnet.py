"""Wide ResNet for 32 px pictures (Zagoruyko & Komodakis 2016, arXiv 1605.07146), pre-activation blocks.

WRN-n-k: n convolutions deep, k times the channels of the thin CIFAR ResNet. Published on CIFAR-10 / 100 with
flips and shifts, in % error without dropout: 40-4 4.53 / 21.18, 28-10 4.00 / 19.25.
"""

from functools import partial
from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.blocks import Stage
from cnn.layers.conv import Conv
from cnn.layers.pool import global_avg_pool
from cnn.layers.residual import PreActBlock
from cnn.models.backbone import Backbone
from cnn.shapes import Outputs


class WideResNet(Backbone):
    """The family. `depth` is 6 m + 4: three stages of m blocks at strides 1, 2 and 4.

    Stage outputs are the residual stream before the next norm; `pre_logits` is normalised and pooled.

    Attributes:
      dropout: between the two convolutions of a block (the paper's place), not before the head.
    """

    depth: int = 28
    widen: int = 10

    TINY: ClassVar = {"depth": 10, "widen": 1, "dropout": 0.1}
    TINY_INPUT: ClassVar = (16, 16, 3)

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise UserError(
                f"depth {self.depth} of a Wide ResNet is not 6 m + 4 (10, 16, 22, 28, 40, ...)"
            )
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return (1, 2, 4)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(channels * self.widen for channels in (16, 32, 64))

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        norm, size = self.make_norm(), (self.depth - 4) // 6
        rates = iter(self.drop_path_rates(3 * size))
        x = Conv(16, 3, dtype=self.dtype, name="stem")(x)
        out: Outputs = {}
        for stage, width in enumerate(self.feature_channels, start=1):
            strides = [2 if stage > 1 and index == 0 else 1 for index in range(size)]
            blocks = [
                partial(
                    self.block(PreActBlock, stage),
                    width=width,
                    bottleneck=False,
                    shrinks=stride > 1,
                    strides=stride,
                    dilations=(1, 1),
                    norm=norm,
                    dropout=self.dropout,
                    drop_path=next(rates),
                    dtype=self.dtype,
                )
                for stride in strides
            ]
            x = out[f"stage{stage}"] = Stage(blocks, name=f"stage{stage}")(x, train)
        if self.features_only:
            return out
        out["pre_logits"] = global_avg_pool(nn.relu(norm(name="bn")(x, train=train)))
        if self.num_classes:
            out["logits"] = nn.Dense(self.num_classes, name="head")(out["pre_logits"])
        return out


wrn_16_4 = partial(WideResNet, depth=16, widen=4)
wrn_28_10 = partial(WideResNet, depth=28, widen=10)
wrn_40_4 = partial(WideResNet, depth=40, widen=4)
