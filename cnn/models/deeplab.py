"""DeepLab v3 (Chen et al. 2017, arXiv 1706.05587) and v3+ (Chen et al. 2018, arXiv 1802.02611).

Atrous spatial pyramid pooling looks at the last stage with several dilations at once, and with its mean over space.
v3+ sharpens the answer by the features of a fine stage. Layers and parameter counts of v3 are torchvision's, whose
weights fit; v3+ is that of the paper with plain convolutions in place of its separable ones.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.blocks import ConvNorm
from cnn.layers.drop import Dropout
from cnn.layers.resample import resize
from cnn.models.dense import Classifier, HeadOnBackbone


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (v3, section 3.3): branches side by side, joined by a 1x1 convolution.

    Attributes:
      width: channels of each branch and of the result.
      rates: dilation of each 3x3 branch; there is a 1x1 branch and one of the mean over space too.
      dropout: behind the joining convolution.
      conv: makes a ConvNorm with the network's normalisation.
    """

    width: int
    rates: Sequence[int]
    dropout: float
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *space o"]:
        branches = [self.conv(self.width, 1, name="point")(x, train)]
        for index, rate in enumerate(self.rates, 1):
            branches.append(self.conv(self.width, 3, dilation=rate, name=f"atrous{index}")(x, train))
        mean = x.mean(axis=tuple(range(1, x.ndim - 1)), keepdims=True, dtype=jnp.float32)
        mean = self.conv(self.width, 1, name="pooled")(mean, train)
        branches.append(jnp.broadcast_to(mean, branches[0].shape))
        x = self.conv(self.width, 1, name="join")(jnp.concatenate(branches, axis=-1), train)
        return Dropout(self.dropout, name="dropout")(x, train=train)


class DeepLabHead(nn.Module):
    """ASPP, a 3x3 convolution, the classifier."""

    num_classes: int
    width: int
    rates: Sequence[int]
    dropout: float
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *space k"]:
        conv = partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        x = ASPP(self.width, self.rates, self.dropout, conv, name="aspp")(x, train)
        x = conv(self.width, 3, name="conv")(x, train)
        return Classifier(self.num_classes, name="classifier")(x)


class DeepLabV3(HeadOnBackbone):
    """Version 3: the head sees the last stage only.

    Attributes:
      rates: dilations of the pyramid: the paper's for `output_stride` 8; for 16 it halves them.
      width: channels of the head.
      dropout: behind the pyramid, and in front of the classifier of `aux`; torchvision's are 0.5 and 0.1.
    """

    rates: Sequence[int] = (12, 24, 36)
    width: int = 256
    dropout: float = 0.5

    TINY: ClassVar[Mapping[str, Any]] = HeadOnBackbone.TINY | {"width": 8, "rates": (1, 2)}

    def __post_init__(self) -> None:
        if not self.rates or min(self.rates) < 1 or self.width < 1:
            raise UserError(f"rates {tuple(self.rates)} and width {self.width} must be positive")
        super().__post_init__()

    def answer(self, stages: Sequence[Array], train: bool) -> Float[Array, "b *coarse k"]:
        """From the last stage."""
        how = {"width": self.width, "rates": tuple(self.rates), "dropout": self.dropout}
        return self.head(DeepLabHead, **how)(stages[-1], train)


class DeepLabPlusHead(nn.Module):
    """ASPP's result beside the features of a fine stage, two 3x3 convolutions, the classifier (v3+, section 3.1)."""

    num_classes: int
    width: int
    fine_width: int
    rates: Sequence[int]
    dropout: float
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, stages: Sequence[Array], train: bool) -> Float[Array, "b *fine k"]:
        fine, x = stages
        conv = partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        x = ASPP(self.width, self.rates, self.dropout, conv, name="aspp")(x, train)
        fine = conv(self.fine_width, 1, name="fine")(fine, train)
        x = jnp.concatenate([resize(x, fine.shape[1:-1]), fine], axis=-1)
        x = conv(self.width, 3, name="conv1")(x, train)
        x = conv(self.width, 3, name="conv2")(x, train)
        return Classifier(self.num_classes, name="classifier")(x)


class DeepLabV3Plus(DeepLabV3):
    """Version 3+.

    Attributes:
      fine_stride: of the stage whose features come in.
      fine_width: channels that they are reduced to (the paper's table 1).
    """

    rates: Sequence[int] = (6, 12, 18)
    output_stride: int = 16
    fine_stride: int = 4
    fine_width: int = 48

    TINY: ClassVar[Mapping[str, Any]] = DeepLabV3.TINY | {"fine_width": 4}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stage_at(self.fine_stride)  # refuses a backbone without one

    def answer(self, stages: Sequence[Array], train: bool) -> Float[Array, "b *fine k"]:
        """From the last stage and the fine one."""
        how = {"width": self.width, "fine_width": self.fine_width, "rates": tuple(self.rates), "dropout": self.dropout}
        return self.head(DeepLabPlusHead, **how)([stages[self.stage_at(self.fine_stride) - 1], stages[-1]], train)


# What torchvision's networks for pixels see of its MobileNet v3.
MOBILENET = {
    "name": "mobilenetv3_large_100",
    "norm_epsilon": 1e-3,
    "stage_end": "first",
    "eager_dilation": True,
}

deeplabv3_resnet50 = partial(DeepLabV3)
deeplabv3_resnet101 = partial(DeepLabV3, backbone={"name": "resnet101"})
deeplabv3_mobilenet_v3_large = partial(DeepLabV3, backbone=MOBILENET, output_stride=16)
deeplabv3plus_resnet50 = partial(DeepLabV3Plus)
