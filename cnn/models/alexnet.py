"""AlexNet (Krizhevsky 2014, arXiv 1404.5997), the one-tower form of Krizhevsky et al. 2012 that torchvision has.

Without the local response normalisation of 2012. Layer order, padding and parameter count are torchvision's.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.layers.blocks import ConvNorm, FlattenedDense, Stage
from cnn.layers.conv import default_uniform
from cnn.layers.pool import max_pool
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs

GRID = 6  # the feature map of a 224 px picture


class AlexNet(Backbone):
    """Five convolutions, the first of 11x11 and stride 4, the second of 5x5, and two wide dense layers.

    Stages end before each 3x3 max pool; the last stage is the last pool, from which the classes are read. The
    paper trains with dropout 0.5. There is no residual branch: `drop_path` does nothing.

    Attributes:
      widths: channels of the convolutions, stage by stage.
      hidden: outputs of the dense layers; () classifies the mean over space.
    """

    widths: Sequence[Sequence[int]] = ((64,), (192,), (384, 256, 256))
    hidden: Sequence[int] = (4096, 4096)
    norm: str = "none"

    TINY: ClassVar[Mapping[str, Any]] = {"widths": ((4,), (6,), (8, 4)), "hidden": (5, 6)}
    TINY_INPUT: ClassVar[tuple[int, ...]] = (64, 64, 3)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited([4 * 2**stage for stage in range(len(self.widths) + 1)])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        channels = tuple(stage[-1] for stage in self.widths)
        return (*channels, channels[-1])

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        conv = partial(
            ConvNorm,
            norm=self.make_norm(),
            dtype=self.dtype,
            kernel_init=default_uniform,
            use_bias=True,
        )
        resolution = Resolution(self.output_stride)
        rank = x.ndim - 2
        out: Outputs = {}
        for stage, widths in enumerate(self.widths, 1):
            if stage == 1:
                layers = [partial(conv, widths[0], 11, **resolution.window(rank, 11, 4, padding=2))]
            else:
                x = max_pool(x, 3, **resolution.window(rank, 3, 2))
                layers = [partial(conv, widths[0], 5 if stage == 2 else 3, 1, resolution.step()[1])]
            layers += [partial(conv, width, 3, 1, resolution.step()[1]) for width in widths[1:]]
            x = self.block(Stage, stage)(layers, "conv", name=f"stage{stage}")(x, train)
            out[f"stage{stage}"] = x
        x = max_pool(x, 3, **resolution.window(rank, 3, 2))
        out[f"stage{len(self.widths) + 1}"] = x
        if self.features_only:
            return out
        x = FlattenedDense(
            GRID, self.hidden, "relu", self.dropout, self.dtype, default_uniform, name="hidden"
        )(x, train)
        return self.classify(out, x, train, default_uniform)


alexnet = partial(AlexNet)
