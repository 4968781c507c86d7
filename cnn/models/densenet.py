"""DenseNet (Huang et al. 2016, arXiv 1608.06993): every layer sees what all before it in its stage have made.

Layer order, initialisation and parameter counts are torchvision's.

For the gradient a stage keeps a normalised copy of its growing feature map for each layer, memory quadratic in their
number. `remat` computes those again (Pleiss et al. 2017, arXiv 1707.06990) and then keeps the map in pieces, one per
layer. Compiled for a TPU v5e (224 px, batch 32, bf16, XLA's own figures), a training step of DenseNet-121 peaks at
0.81 GiB in place of 1.28. Without `remat` the map is put together after each layer: pieces would be 8 % more traffic
there, and a preallocated buffer 19 % more memory; on two CPU cores the three took the same time within 3 %.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import UserError, unknown
from cnn.layers.conv import Conv, default_uniform
from cnn.layers.drop import Dropout, check_rate
from cnn.layers.pool import avg_pool, max_pool
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs

INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# name: (window, stride, whether normalisation, ReLU and a 3x3 max pool of stride 2 follow)
STEMS = {"imagenet": (7, 2, True), "cifar": (3, 1, False)}


class DenseLayer(nn.Module):
    """norm - ReLU - 1x1 to `bottleneck` channels - norm - ReLU - 3x3; without the first half if that is 0."""

    growth_rate: int
    bottleneck: int
    dilation: int
    dropout: float
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, pieces: list[Array], train: bool) -> Float[Array, "b *space o"]:
        x = jnp.concatenate(pieces, axis=-1)
        x = nn.relu(self.norm(name="bn1")(x, train=train))
        if self.bottleneck:
            x = self.conv(self.bottleneck, 1, name="conv1")(x)
            x = nn.relu(self.norm(name="bn2")(x, train=train))
        name = "conv2" if self.bottleneck else "conv1"
        x = self.conv(self.growth_rate, 3, dilation=self.dilation, name=name)(x)
        return Dropout(self.dropout, name="dropout")(x, train=train)


class DenseStage(nn.Module):
    """Dense layers one after the other: `block1`, `block2`, ...

    Attributes:
      in_pieces: what the layers have made is put together only where it is read.
    """

    layers: Sequence[Callable[..., nn.Module]]
    in_pieces: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *space o"]:
        pieces = [x]
        for index, layer in enumerate(self.layers, 1):
            pieces = [*pieces, layer(name=f"block{index}")(pieces, train)]
            if not self.in_pieces:
                pieces = [jnp.concatenate(pieces, axis=-1)]
        return jnp.concatenate(pieces, axis=-1)


class DenseNet(Backbone):
    """Stages of dense layers; between two of them a 1x1 convolution takes channels away and a 2x2 mean halves the size.

    Stage outputs are all that the stage has made, before any normalisation; the last stage's are normalised.
    There is no residual branch: `drop_path` does nothing.

    Attributes:
      stage_sizes: layers of each stage.
      growth_rate: channels that each layer adds.
      bn_size: channels of a layer's 1x1 convolution over `growth_rate`; 0 leaves it away (no "B" in DenseNet-BC).
      compression: of the channels between two stages; 1 keeps them (no "C").
      stem: one of STEMS.
      stem_channels: 0 for twice the growth rate.
      layer_dropout: behind each layer; the paper has 0.2 where it does not augment.
    """

    stage_sizes: Sequence[int] = (6, 12, 24, 16)
    growth_rate: int = 32
    bn_size: int = 4
    compression: float = 0.5
    stem: str = "imagenet"
    stem_channels: int = 0
    layer_dropout: float = 0.0

    TINY: ClassVar[Mapping[str, Any]] = {"stage_sizes": (2, 1, 1, 1), "growth_rate": 2}

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise unknown("stem", self.stem, STEMS)
        if not 0 < self.compression <= 1:
            raise UserError(f"compression {self.compression} is not in (0, 1]")
        check_rate("layer_dropout", self.layer_dropout)
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        first = 4 if self.stem == "imagenet" else 1
        return self.limited([first * 2**stage for stage in range(len(self.stage_sizes))])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        found: list[int] = []
        for size in self.stage_sizes:
            first = int(found[-1] * self.compression) if found else self.first_channels
            found.append(first + size * self.growth_rate)
        return tuple(found)

    @property
    def first_channels(self) -> int:
        """Of the stem."""
        return self.stem_channels or 2 * self.growth_rate

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        norm = self.make_norm()
        conv = partial(Conv, dtype=self.dtype, kernel_init=INIT)
        resolution = Resolution(self.output_stride)
        window, stride, pooled = STEMS[self.stem]
        x = conv(self.first_channels, window, resolution.step(stride)[0], name="stem_conv")(x)
        if pooled:
            x = nn.relu(norm(name="stem_bn")(x, train=train))
            x = max_pool(x, 3, **resolution.window(x.ndim - 2, 3, 2, padding=1))
        out: Outputs = {}
        for stage, size in enumerate(self.stage_sizes, 1):
            if stage > 1:
                channels = int(x.shape[-1] * self.compression)
                x = nn.relu(norm(name=f"transition{stage - 1}_bn")(x, train=train))
                x = conv(channels, 1, name=f"transition{stage - 1}_conv")(x)
                x = avg_pool(x, 2, **resolution.window(x.ndim - 2, 2, 2))
            layer = partial(
                self.block(DenseLayer, stage),
                self.growth_rate,
                self.bn_size * self.growth_rate,
                resolution.step()[1],
                self.layer_dropout,
                norm,
                conv,
            )
            dense = DenseStage([layer] * size, self.recomputed(stage), name=f"stage{stage}")
            x = out[f"stage{stage}"] = dense(x, train)
        x = out[f"stage{len(self.stage_sizes)}"] = nn.relu(norm(name="bn")(x, train=train))
        return self.classify(out, x, train, default_uniform)


densenet121 = partial(DenseNet, stage_sizes=(6, 12, 24, 16))
densenet161 = partial(DenseNet, stage_sizes=(6, 12, 36, 24), growth_rate=48)
densenet169 = partial(DenseNet, stage_sizes=(6, 12, 32, 32))
densenet201 = partial(DenseNet, stage_sizes=(6, 12, 48, 32))
densenet264 = partial(DenseNet, stage_sizes=(6, 12, 64, 48))
# For 32 px pictures: L layers, growth rate k.
_cifar = partial(DenseNet, stem="cifar", growth_rate=12)
densenet_40_12 = partial(_cifar, stage_sizes=(12,) * 3, bn_size=0, compression=1.0, stem_channels=16)
densenet_bc_100_12 = partial(_cifar, stage_sizes=(16,) * 3)
