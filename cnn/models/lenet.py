"""LeNet-5 (LeCun et al. 1998, Proceedings of the IEEE 86(11)), in the form in which it is taught today.

Pooling has no weights, each map of the second convolution sees all maps of the first, and the last layer is a
plain dense one: 61,706 parameters for 32 px grey pictures and ten classes, where the paper's network has 60,000.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.errors import unknown
from cnn.layers.blocks import ACTIVATIONS, ConvNorm, FlattenedDense
from cnn.layers.pool import avg_pool, max_pool
from cnn.models.backbone import Backbone
from cnn.shapes import Outputs

POOLS = {"avg": avg_pool, "max": max_pool}


class LeNet(Backbone):
    """5x5 convolutions without padding, each with a pool of stride 2, and two dense layers.

    There is no residual branch: `drop_path` does nothing.

    Attributes:
      widths: channels of each convolution.
      hidden: outputs of each dense layer; () classifies the mean over space.
      pool: 'avg', as in the paper, or 'max'.
      act: a name of ACTIVATIONS; the paper has a scaled tanh.
    """

    widths: Sequence[int] = (6, 16)
    hidden: Sequence[int] = (120, 84)
    pool: str = "avg"
    act: str = "tanh"
    norm: str = "none"

    TINY: ClassVar[Mapping[str, Any]] = {"widths": (3, 4), "hidden": (6, 5)}
    TINY_INPUT: ClassVar[tuple[int, ...]] = (32, 32, 1)

    def __post_init__(self) -> None:
        for kind, name, table in (("pool", self.pool, POOLS), ("act", self.act, ACTIVATIONS)):
            if name not in table:
                raise unknown(kind, name, table)
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited([2**stage for stage in range(1, len(self.widths) + 1)])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(self.widths)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        lecun = nn.initializers.lecun_normal()
        out: Outputs = {}
        for stage, width in enumerate(self.widths, 1):
            layer = self.block(ConvNorm, stage)(
                width,
                5,
                padding="VALID",
                act=self.act,
                norm=self.make_norm(),
                dtype=self.dtype,
                kernel_init=lecun,
                use_bias=True,
                name=f"stage{stage}",
            )
            x = out[f"stage{stage}"] = POOLS[self.pool](layer(x, train), 2)
        if self.features_only:
            return out
        hidden = FlattenedDense(
            5, self.hidden, self.act, self.dropout, self.dtype, lecun, name="hidden"
        )
        return self.classify(out, hidden(x, train), train, lecun)


lenet5 = partial(LeNet)
