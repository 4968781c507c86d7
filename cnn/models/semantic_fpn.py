"""The feature pyramid (Lin et al. 2016, arXiv 1612.03144), and a head for pixels on it.

The head is that of Panoptic FPN (Kirillov et al. 2019, arXiv 1901.02446, figure 3).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.blocks import ConvNorm
from cnn.layers.conv import Conv
from cnn.layers.drop import Dropout
from cnn.layers.resample import resize
from cnn.models.dense import Classifier, HeadOnBackbone


class FPN(nn.Module):
    """The neck: coarse stages flow down to fine ones, so that every level knows what the last stage knows.

    Section 3: 1x1 convolutions to `width` channels, each coarser level added by nearest-neighbour interpolation, a
    3x3 convolution on each sum. No normalisation. Levels are as many, and as large, as the stages that come in.
    """

    width: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stages: Sequence[Array], train: bool) -> list[Array]:
        conv = partial(Conv, self.width, use_bias=True, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform())
        levels = [conv(1, name=f"lateral{index}")(stage) for index, stage in enumerate(stages, 1)]
        for index in reversed(range(len(levels) - 1)):
            levels[index] += resize(levels[index + 1], levels[index].shape[1:-1], "nearest")
        return [conv(3, name=f"smooth{index}")(level) for index, level in enumerate(levels, 1)]


class SemanticFPNHead(nn.Module):
    """The pyramid; each level brought to the finest one's size by convolutions and interpolations; sum; classifier.

    Panoptic FPN, figure 3. A level whose stride is 2^n times the finest one's has n steps of a 3x3 convolution,
    normalisation, ReLU and bilinear interpolation by 2; the finest has one step without interpolation.

    Attributes:
      strides: of the stages that come in.
      pyramid_width, width: channels of the pyramid, and of the steps.
    """

    num_classes: int
    strides: Sequence[int]
    pyramid_width: int
    width: int
    dropout: float
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, stages: Sequence[Array], train: bool) -> Float[Array, "b *fine k"]:
        levels = FPN(self.pyramid_width, self.dtype, name="pyramid")(stages, train)
        size, total = levels[0].shape[1:-1], 0
        for index, (x, stride) in enumerate(zip(levels, self.strides, strict=True), 1):
            steps = math.ceil(math.log2(stride / self.strides[0]))
            for step in range(max(steps, 1)):
                name = f"level{index}_conv{step + 1}"
                x = ConvNorm(self.width, 3, norm=self.norm, dtype=self.dtype, name=name)(x, train)
                left = max(steps - 1 - step, 0)  # interpolations still to come
                x = resize(x, [-(-pixels // 2**left) for pixels in size])
            total = total + x
        x = Dropout(self.dropout, name="dropout")(total, train=train)
        return Classifier(self.num_classes, name="classifier")(x)


class SemanticFPN(HeadOnBackbone):
    """The family.

    Attributes:
      stride: of the finest level; stages that are finer are not used.
      pyramid_width, width: channels of the pyramid, and behind it.
    """

    output_stride: int = 32
    norm: str = "group"
    dropout: float = 0.0
    stride: int = 4
    pyramid_width: int = 256
    width: int = 128

    TINY: ClassVar[Mapping[str, Any]] = HeadOnBackbone.TINY | {"pyramid_width": 8, "width": 64}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride > self.feature_strides[-1]:
            raise UserError(f"stride {self.stride} is beyond the backbone's {self.feature_strides}")

    def answer(self, stages: Sequence[Array], train: bool) -> Float[Array, "b *fine k"]:
        """From all stages that are not finer than `stride`."""
        used = [(stage, at) for stage, at in zip(stages, self.feature_strides, strict=True) if at >= self.stride]
        how = {"pyramid_width": self.pyramid_width, "width": self.width, "dropout": self.dropout}
        head = self.head(SemanticFPNHead, strides=tuple(at for _, at in used), **how)
        return head([stage for stage, _ in used], train)


semantic_fpn_resnet50 = partial(SemanticFPN)
