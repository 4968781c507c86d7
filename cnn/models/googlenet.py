"""GoogLeNet, the first Inception (Szegedy et al. 2014, arXiv 1409.4842), with batch normalisation.

The form of torchvision, whose weights fit: BatchNorm in place of local response normalisation, eps 1e-3, and 3x3
kernels in the branch where the paper has 5x5.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.blocks import ConvNorm, EveryBlock, FlattenedDense
from cnn.layers.conv import default_uniform
from cnn.layers.drop import Dropout
from cnn.layers.inception import Branch, InceptionBlock, block_channels, scaled
from cnn.layers.pool import adaptive_avg_pool, max_pool
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs

INIT = nn.initializers.normal(0.01)
# Channels of a block's branches: 1x1, 3x3 reduced and full, 5x5 reduced and full, behind the pool.
Widths = tuple[int, int, int, int, int, int]
STAGES: tuple[tuple[Widths, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
POOLS = (3, 3, 2)  # window in front of each of these stages
AUX_STAGE, AUX_BLOCKS, AUX_GRID = 4, (1, 4), 4


def branches(widths: Widths, large_window: int) -> tuple[Branch, ...]:
    """The table of a block."""
    one, reduce3, three, reduce5, five, pooled = widths
    return (
        ((one, 1),),
        ((reduce3, 1), (three, 3)),
        ((reduce5, 1), (five, large_window)),
        ((pooled, 1),),
    )


class AuxClassifier(nn.Module):
    """Classes from the middle of the network, whose loss trains the layers below."""

    num_classes: int
    width: float
    dropout: float
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b k"]:
        channels = [scaled(width, self.width) for width in (128, 1024)]
        x = adaptive_avg_pool(x, AUX_GRID)
        x = ConvNorm(
            channels[0], 1, norm=self.norm, dtype=self.dtype, kernel_init=INIT, name="conv"
        )(x, train)
        x = FlattenedDense(AUX_GRID, channels[1:], dtype=self.dtype, name="hidden")(x, train)
        x = Dropout(self.dropout, name="dropout")(x.astype(jnp.float32), train=train)
        return nn.Dense(self.num_classes, kernel_init=INIT, name="head")(x)


class GoogLeNet(Backbone):
    """A stem of three convolutions (stages 1 and 2), then nine Inception blocks (stages 3 to 5).

    There is no residual branch: `drop_path` does nothing.

    Attributes:
      stages: `Widths` of every block of stages 3, 4 and 5.
      width: multiplies all channels.
      large_window: 3, as torchvision's weights have it, or the paper's 5.
      aux: while training, classifiers behind the first and the fourth block of stage 4 too: `aux1` and `aux2` [b, k],
        whose losses the paper adds with weight 0.3.
      aux_dropout: inside them.
    """

    stages: Sequence[Sequence[Widths]] = STAGES
    width: float = 1.0
    large_window: int = 3
    aux: bool = False
    aux_dropout: float = 0.7
    norm_epsilon: float = 1e-3

    TINY: ClassVar[Mapping[str, Any]] = {
        "stages": (
            ((64, 48, 48, 48, 32, 48),),
            ((32, 48, 64, 48, 48, 32),) * 2,
            ((48, 64, 32, 64, 32, 32),),
        ),
        "width": 1 / 16,
    }

    def __post_init__(self) -> None:
        if len(self.stages) != len(POOLS):
            raise UserError(f"stages has {len(self.stages)} entries; they are stages 3, 4 and 5")
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited((2, 4, 8, 16, 32))

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        ends = [branches(stage[-1], self.large_window) for stage in self.stages]
        stem = (scaled(64, self.width), scaled(192, self.width))
        return (*stem, *(block_channels(end, self.width) for end in ends))

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        common = {"norm": self.make_norm(), "dtype": self.dtype, "kernel_init": INIT}
        conv = partial(ConvNorm, **common)
        resolution = Resolution(self.output_stride)
        window = partial(resolution.window, x.ndim - 2)
        narrow, wide = self.feature_channels[:2]
        out: Outputs = {}
        x = out["stage1"] = conv(narrow, 7, *resolution.step(2), name="stem_conv1")(x, train)
        x = max_pool(x, 3, **window(3, 2), ceil=True)
        x = conv(narrow, 1, name="stem_conv2")(x, train)
        x = out["stage2"] = conv(wide, 3, name="stem_conv3")(x, train)
        for stage, (blocks, size) in enumerate(zip(self.stages, POOLS, strict=True), 3):
            x = max_pool(x, size, **window(size, 2), ceil=True)
            block = partial(
                self.block(InceptionBlock, stage),
                pool="max",
                width=self.width,
                dilation=resolution.step()[1],
                **common,
            )
            layers = [partial(block, branches(widths, self.large_window)) for widths in blocks]
            found = EveryBlock(layers, name=f"stage{stage}")(x, train)
            x = out[f"stage{stage}"] = found[-1]
            if stage == AUX_STAGE:
                self._add_aux(out, found, train)
        return self.classify(out, x, train, default_uniform)

    def _add_aux(self, out: Outputs, found: Sequence[Array], train: bool) -> None:
        # Parameters are made without training, so that every use of the network has the same.
        if not (self.aux and self.num_classes and (train or self.is_initializing())):
            return
        for number, block in enumerate(AUX_BLOCKS, 1):
            logits = AuxClassifier(
                self.num_classes,
                self.width,
                self.aux_dropout,
                self.make_norm(),
                self.dtype,
                name=f"aux{number}",
            )(found[min(block, len(found)) - 1], train)
            if train:
                out[f"aux{number}"] = logits


googlenet = partial(GoogLeNet)
