"""Residual U-Net: the way down is a ResNet, the way up one convolution per level, deep supervision by `aux`.

The residual encoder of nnU-Net (Isensee et al. 2024, arXiv 2404.09556), after V-Net (Milletari et al. 2016, arXiv
1606.04797) and Zhang et al. 2017 (arXiv 1711.10684): a ResNet's basic blocks (`cnn.layers.residual`) with ReLU, which
stride by their first convolution, and instance normalisation, which does not mind batches of two volumes.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.blocks import Stage
from cnn.layers.conv import Conv, Sizes
from cnn.layers.residual import ResNetBlock
from cnn.models.unet import EncoderDecoder


class ResidualUNet(EncoderDecoder):
    """The family.

    Attributes:
      blocks: residual blocks of each level.
      zero_init: start every block as the identity.
    """

    widths: Sequence[int] = (32, 64, 128, 256, 320, 320)
    blocks: Sequence[int] = (1, 3, 4, 6, 6, 6)
    norm: str = "instance"
    zero_init: bool = True
    up_convs: ClassVar[int] = 1

    TINY: ClassVar[Mapping[str, Any]] = EncoderDecoder.TINY | {"blocks": (1, 2, 1, 1)}

    def __post_init__(self) -> None:
        if len(self.blocks) != len(self.widths) or min(self.blocks) < 1:
            raise UserError(f"blocks {tuple(self.blocks)} must be {len(self.widths)} positive numbers, one per level")
        super().__post_init__()

    def down(self, x: Float[Array, "b *space c"], level: int, train: bool) -> Float[Array, "b *out o"]:
        """One level of the way down; a convolution to its channels is in front of the first."""
        if level == 1:
            x = self.conv(level)(self.widths[0], name="stem")(x, train)
        size = self.kernel_sizes[level - 1] if self.kernel_sizes else 3
        before, rates = sum(self.blocks[: level - 1]), self.drop_path_rates(sum(self.blocks))
        strides = [1 if index or level == 1 else self.stride(level - 1) for index in range(self.blocks[level - 1])]
        blocks = [
            partial(
                self.block(ResNetBlock, level),
                width=self.widths[level - 1],
                bottleneck=False,
                shrinks=stride != 1,
                strides=stride,
                dilations=(1, 1),
                norm=self.make_norm(),
                drop_path=rates[before + index],
                dtype=self.dtype,
                zero_init=self.zero_init,
                conv=partial(_conv, size),
            )
            for index, stride in enumerate(strides)
        ]
        return Stage(blocks, name=f"stage{level}")(x, train)


def _conv(size: Sizes, features: int, window: int, strides: Sizes, **how: Any) -> nn.Module:
    """A block's convolution, whose 3x3 windows are the level's."""
    return Conv(features, size if window == 3 else window, strides, **how)


residual_unet = partial(ResidualUNet)
