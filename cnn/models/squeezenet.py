"""SqueezeNet (Iandola et al. 2016, arXiv 1602.07360), 1.0 and 1.1, with torchvision's padding and parameters."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.blocks import ConvNorm, Stage
from cnn.layers.drop import Dropout
from cnn.layers.pool import global_avg_pool, max_pool
from cnn.models.backbone import HEAD_INIT, Backbone, Resolution
from cnn.shapes import Outputs

INIT = nn.initializers.he_uniform()


class Fire(nn.Module):
    """A 1x1 convolution squeezes the channels, a 1x1 and a 3x3 beside it expand them."""

    squeeze: int
    expand1x1: int
    expand3x3: int
    dilation: int
    conv: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *space o"]:
        x = self.conv(self.squeeze, 1, name="squeeze")(x, train)
        small = self.conv(self.expand1x1, 1, name="expand1x1")(x, train)
        large = self.conv(self.expand3x3, 3, 1, self.dilation, name="expand3x3")(x, train)
        return jnp.concatenate([small, large], axis=-1)


class SqueezeNet(Backbone):
    """One convolution (stage 1), then stages of fire modules with a 3x3 max pool in front of each.

    Fire module i (from 0) has `base_expand + expand_step * (i // expand_every)` channels, of which `share3x3` come
    from 3x3 kernels, and squeezes to `squeeze_ratio` of them: the paper's metaparameters. The classifier is a 1x1
    convolution with ReLU whose mean is taken over space. The paper trains with dropout 0.5. There is no residual
    branch: `drop_path` does nothing.

    Attributes:
      stage_sizes: fire modules of stages 2, 3, ...
      stem_channels, stem_window: of the first convolution, of stride 2 and without padding.
    """

    stage_sizes: Sequence[int] = (3, 4, 1)
    stem_channels: int = 96
    stem_window: int = 7
    base_expand: int = 128
    expand_step: int = 128
    expand_every: int = 2
    squeeze_ratio: float = 0.125
    share3x3: float = 0.5
    norm: str = "none"

    TINY: ClassVar[Mapping[str, Any]] = {
        "stage_sizes": (1, 2, 1),
        "stem_channels": 6,
        "base_expand": 8,
        "expand_step": 8,
        "squeeze_ratio": 0.5,
    }
    TINY_INPUT: ClassVar[tuple[int, ...]] = (48, 48, 3)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited([2 ** (stage + 1) for stage in range(len(self.stage_sizes) + 1)])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        ends = [sum(self.stage_sizes[: stage + 1]) - 1 for stage in range(len(self.stage_sizes))]
        return (self.stem_channels, *(self.expanded(fire) for fire in ends))

    def expanded(self, fire: int) -> int:
        """Channels that come out of fire module number `fire`, from 0."""
        return self.base_expand + self.expand_step * (fire // self.expand_every)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        conv = partial(
            ConvNorm, norm=self.make_norm(), dtype=self.dtype, kernel_init=INIT, use_bias=True
        )
        resolution = Resolution(self.output_stride)
        window = partial(resolution.window, x.ndim - 2)
        stem = conv(self.stem_channels, self.stem_window, **window(self.stem_window, 2), name="stem")
        out: Outputs = {}
        x = out["stage1"] = stem(x, train)
        fires = 0
        for stage, size in enumerate(self.stage_sizes, 2):
            x = max_pool(x, 3, **window(3, 2), ceil=True)
            fire = partial(
                self.block(Fire, stage), dilation=resolution.step()[1], conv=conv
            )
            blocks = []
            for channels in map(self.expanded, range(fires, fires + size)):
                large = int(channels * self.share3x3)
                squeeze = int(channels * self.squeeze_ratio)
                blocks.append(partial(fire, squeeze, channels - large, large))
            x = out[f"stage{stage}"] = Stage(blocks, name=f"stage{stage}")(x, train)
            fires += size
        if self.features_only:
            return out
        out["pre_logits"] = global_avg_pool(x)
        if self.num_classes:
            x = Dropout(self.dropout, name="dropout")(x.astype(jnp.float32), train=train)
            x = nn.relu(nn.Dense(self.num_classes, kernel_init=HEAD_INIT, name="head")(x))
            out["logits"] = global_avg_pool(x)
        return out


squeezenet1_0 = partial(SqueezeNet)
squeezenet1_1 = partial(SqueezeNet, stage_sizes=(2, 2, 4), stem_channels=64, stem_window=3)
