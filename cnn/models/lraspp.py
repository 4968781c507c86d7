"""LR-ASPP, the light head of MobileNet v3 (Howard et al. 2019, arXiv 1905.02244, section 6.4 and figure 10).

The form of torchvision, whose weights fit: the gate comes from the mean over the whole picture.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.blocks import ConvNorm
from cnn.layers.conv import Conv
from cnn.layers.resample import resize
from cnn.models.deeplab import MOBILENET
from cnn.models.dense import Classifier, HeadOnBackbone


class LRASPPHead(nn.Module):
    """The last stage, gated by its mean over space, and a fine stage: each has a classifier, which are summed."""

    num_classes: int
    width: int
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, stages: Sequence[Array], train: bool) -> Float[Array, "b *fine k"]:
        fine, coarse = stages
        x = ConvNorm(self.width, 1, norm=self.norm, dtype=self.dtype, name="conv")(coarse, train)
        gate = coarse.mean(axis=tuple(range(1, coarse.ndim - 1)), keepdims=True, dtype=jnp.float32)
        x = x * jax.nn.sigmoid(Conv(self.width, 1, dtype=self.dtype, name="gate")(gate))
        coarse_logits = Classifier(self.num_classes, name="coarse")(resize(x, fine.shape[1:-1]))
        return Classifier(self.num_classes, name="fine")(fine) + coarse_logits


class LRASPP(HeadOnBackbone):
    """The family. There is no dropout in it but that of `aux`.

    Attributes:
      width: channels of the head.
      fine_stride: of the stage with a classifier of its own.
    """

    backbone: Mapping[str, Any] = nn.FrozenDict(MOBILENET)
    output_stride: int = 16
    width: int = 128
    fine_stride: int = 8

    TINY: ClassVar[Mapping[str, Any]] = HeadOnBackbone.TINY | {"width": 8}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stage_at(self.fine_stride)  # refuses a backbone without one

    def answer(self, stages: Sequence[Array], train: bool) -> Float[Array, "b *fine k"]:
        """From the last stage and the fine one."""
        return self.head(LRASPPHead, width=self.width)([stages[self.stage_at(self.fine_stride) - 1], stages[-1]], train)


lraspp_mobilenet_v3_large = partial(LRASPP)
