"""VGG (Simonyan & Zisserman 2014, arXiv 1409.1556), with and without batch normalisation.

Layer order, initialisation and parameter counts are torchvision's: convolutions have a bias also where a
normalisation follows.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.layers.blocks import ConvNorm, FlattenedDense, Stage
from cnn.layers.pool import max_pool
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs

GRID = 7  # the feature map of a 224 px picture


class VGG(Backbone):
    """Stages of 3x3 convolutions with a 2x2 max pool behind each, and two wide dense layers.

    Stages end before their pool; the last one is the last pool, from which the classes are read: one more stage
    than `stage_sizes` has. The paper trains with dropout 0.5. There is no residual branch: `drop_path` does nothing.

    Attributes:
      stage_sizes: convolutions of each stage.
      width: channels of the first stage; they double from stage to stage, at most three times.
      hidden: outputs of the dense layers; () classifies the mean over space.
    """

    stage_sizes: Sequence[int] = (2, 2, 3, 3, 3)
    width: int = 64
    hidden: Sequence[int] = (4096, 4096)
    norm: str = "none"

    TINY: ClassVar[Mapping[str, Any]] = {
        "stage_sizes": (1, 2, 1, 1, 1),
        "width": 2,
        "hidden": (5, 6),
        "norm": "batch",
    }

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited([2**stage for stage in range(len(self.stage_sizes) + 1)])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        channels = tuple(self.width * 2 ** min(stage, 3) for stage in range(len(self.stage_sizes)))
        return (*channels, channels[-1])

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        conv = partial(ConvNorm, norm=self.make_norm(), dtype=self.dtype, use_bias=True)
        resolution = Resolution(self.output_stride)
        out: Outputs = {}
        for stage, (size, width) in enumerate(
            zip(self.stage_sizes, self.feature_channels, strict=False), 1
        ):
            layers = [partial(conv, width, 3, 1, resolution.step()[1])] * size
            x = self.block(Stage, stage)(layers, "conv", name=f"stage{stage}")(x, train)
            out[f"stage{stage}"] = x
            x = max_pool(x, 2, **resolution.window(x.ndim - 2, 2, 2))
        out[f"stage{len(self.stage_sizes) + 1}"] = x
        if self.features_only:
            return out
        hidden = FlattenedDense(GRID, self.hidden, "relu", self.dropout, self.dtype, name="hidden")
        return self.classify(out, hidden(x, train), train)


vgg11 = partial(VGG, stage_sizes=(1, 1, 2, 2, 2))
vgg13 = partial(VGG, stage_sizes=(2, 2, 2, 2, 2))
vgg16 = partial(VGG, stage_sizes=(2, 2, 3, 3, 3))
vgg19 = partial(VGG, stage_sizes=(2, 2, 4, 4, 4))
vgg11_bn = partial(VGG, stage_sizes=(1, 1, 2, 2, 2), norm="batch")
vgg13_bn = partial(VGG, stage_sizes=(2, 2, 2, 2, 2), norm="batch")
vgg16_bn = partial(VGG, stage_sizes=(2, 2, 3, 3, 3), norm="batch")
vgg19_bn = partial(VGG, stage_sizes=(2, 2, 4, 4, 4), norm="batch")
