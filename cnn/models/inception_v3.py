"""Inception v3 (Szegedy et al. 2015, arXiv 1512.00567): large windows as chains of small and of flat ones.

Layer order, padding, BatchNorm eps and parameter counts are those of torchvision and timm. Most pools and strided
convolutions pad nothing, so feature maps are a little smaller than the picture over the stride.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.blocks import ConvNorm, Stage
from cnn.layers.inception import Branch, InceptionBlock, block_channels, scaled
from cnn.layers.pool import avg_pool, global_avg_pool, max_pool
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs

INIT = nn.initializers.normal(0.1)
FLAT, TALL = (1, 7), (7, 1)
CROSS = ((384, (1, 3)), (384, (3, 1)))
STEM = ((32, 3), (32, 3), (64, 3), (80, 1), (192, 3))  # channels, window

# 35x35 to 17x17, 17x17 to 8x8 and 8x8 (the paper's figures 10, 10 and 7).
REDUCE_TO_STAGE4: Sequence[Branch] = (((384, 3),), ((64, 1), (96, 3), (96, 3)), ())
REDUCE_TO_STAGE5: Sequence[Branch] = (
    ((192, 1), (320, 3)),
    ((192, 1), (192, FLAT), (192, TALL), (192, 3)),
    (),
)
BLOCK5: Sequence[Branch] = (
    ((320, 1),),
    ((384, 1), CROSS),
    ((448, 1), (384, 3), CROSS),
    ((192, 1),),
)


def block3(pooled: int) -> Sequence[Branch]:
    """35x35 (figure 5); `pooled` channels behind the pool."""
    return (
        ((64, 1),),
        ((48, 1), (64, 5)),
        ((64, 1), (96, 3), (96, 3)),
        ((pooled, 1),),
    )


def block4(inner: int) -> Sequence[Branch]:
    """17x17 (figure 6); `inner` channels between the flat and the tall windows."""
    return (
        ((192, 1),),
        ((inner, 1), (inner, FLAT), (192, TALL)),
        ((inner, 1), (inner, TALL), (inner, FLAT), (inner, TALL), (192, FLAT)),
        ((192, 1),),
    )


class AuxClassifier(nn.Module):
    """Classes from stage 4, whose loss trains the layers below.

    Raises:
      UserError: a feature map too small for the pool and the 5x5 convolution.
    """

    num_classes: int
    width: float
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b k"]:
        if min(x.shape[1:-1]) < 17:
            raise UserError(
                f"aux needs a feature map of 17x17 pixels in stage 4, not {x.shape[1:-1]}: use pictures of "
                f"299 px or more"
            )
        conv = partial(ConvNorm, padding="VALID", norm=self.norm, dtype=self.dtype)
        x = avg_pool(x, 5, 3)
        x = conv(scaled(128, self.width), 1, kernel_init=INIT, name="conv1")(x, train)
        init = nn.initializers.normal(0.01)
        x = conv(scaled(768, self.width), 5, kernel_init=init, name="conv2")(x, train)
        head = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.001), name="head")
        return head(global_avg_pool(x))


class InceptionV3(Backbone):
    """A stem of five convolutions (stages 1 and 2), then blocks of three kinds (stages 3 to 5), for pictures only.

    Stages 4 and 5 begin with a block that halves the resolution. There is no residual branch: `drop_path` does
    nothing.

    Attributes:
      pooled_channels: of each block of stage 3, behind its pool.
      inner_channels: of each block of stage 4 but the first, between its flat and tall windows.
      last_blocks: of stage 5, without the first.
      width: multiplies all channels.
      aux: while training, a classifier behind stage 4 too: `aux` [b, k], whose loss the paper adds with weight 0.3.
    """

    pooled_channels: Sequence[int] = (32, 64, 64)
    inner_channels: Sequence[int] = (128, 160, 160, 192)
    last_blocks: int = 2
    width: float = 1.0
    aux: bool = False
    norm_epsilon: float = 1e-3

    TINY: ClassVar[Mapping[str, Any]] = {
        "pooled_channels": (32,),
        "inner_channels": (64,),
        "last_blocks": 1,
        "width": 1 / 32,
    }
    TINY_INPUT: ClassVar[tuple[int, ...]] = (80, 80, 3)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited((2, 4, 8, 16, 32))

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        ends = (block3(self.pooled_channels[-1]), block4(self.inner_channels[-1]), BLOCK5)
        stem = (scaled(64, self.width), scaled(192, self.width))
        return (*stem, *(block_channels(end, self.width) for end in ends))

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        common = {"norm": self.make_norm(), "dtype": self.dtype, "kernel_init": INIT}
        resolution = Resolution(self.output_stride)
        window = partial(resolution.window, x.ndim - 2, 3, 2)
        stem = [
            partial(ConvNorm, scaled(channels, self.width), size, name=f"stem_conv{number}", **common)
            for number, (channels, size) in enumerate(STEM, 1)
        ]
        out: Outputs = {}
        x = stem[0](**window())(x, train)
        x = stem[1](padding="VALID")(x, train)
        x = out["stage1"] = stem[2]()(x, train)
        x = stem[3]()(max_pool(x, 3, **window()), train)
        x = out["stage2"] = stem[4](padding="VALID")(x, train)
        x = max_pool(x, 3, **window())
        stages = (
            (None, [block3(pooled) for pooled in self.pooled_channels]),
            (REDUCE_TO_STAGE4, [block4(inner) for inner in self.inner_channels]),
            (REDUCE_TO_STAGE5, [BLOCK5] * self.last_blocks),
        )
        for stage, (reduction, tables) in enumerate(stages, 3):
            block = partial(self.block(InceptionBlock, stage), width=self.width, **common)
            blocks = []
            if reduction:
                before, strided = resolution.step()[1], window()
                blocks = [partial(block, reduction, pool="max", dilation=before, strided=strided)]
            dilation = resolution.step()[1]
            blocks += [partial(block, table, dilation=dilation) for table in tables]
            x = out[f"stage{stage}"] = Stage(blocks, name=f"stage{stage}")(x, train)
            # Parameters are made without training, so that every use of the network has the same.
            if stage == 4 and self.aux and self.num_classes and (train or self.is_initializing()):
                aux = AuxClassifier(
                    self.num_classes, self.width, self.make_norm(), self.dtype, name="aux_head"
                )(x, train)
                out |= {"aux": aux} if train else {}
        return self.classify(out, x, train, INIT)


inception_v3 = partial(InceptionV3)
