"""ResNet (He et al. 2015, arXiv 1512.03385), the v1.5 of today: the 3x3 convolution of a bottleneck strides.

One family for 1-D, 2-D and 3-D inputs. Zero initialisation of each block's last scale and the batch size
rules around it are from Goyal et al. 2017 (arXiv 1706.02677). Layer order, padding and parameter counts are
those of torchvision, so that its weights fit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import unknown
from cnn.layers.conv import Conv
from cnn.layers.drop import Dropout, StochasticDepth, check_rate
from cnn.layers.norm import make_norm
from cnn.layers.pool import global_avg_pool, max_pool
from cnn.shapes import Outputs

# name: (window, stride, whether a 3x3 max pool of stride 2 follows)
STEMS = {"imagenet": (7, 2, True), "cifar": (3, 1, False), "strided": (3, 2, False)}


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions (basic), or 1x1 - 3x3 - 1x1 with four times the channels (bottleneck)."""

    width: int
    strides: int
    bottleneck: bool
    norm: Callable[..., nn.Module]
    zero_init: bool
    drop_path: float
    dtype: Any

    # `train` is positional because `nn.remat` marks static arguments by position.
    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        conv = partial(Conv, dtype=self.dtype)
        last_scale = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        shortcut = x
        if self.bottleneck:
            features = 4 * self.width
            y = nn.relu(self.norm(name="bn1")(conv(self.width, 1, name="conv1")(x), train=train))
            y = conv(self.width, 3, self.strides, name="conv2")(y)
            y = nn.relu(self.norm(name="bn2")(y, train=train))
            y = conv(features, 1, name="conv3")(y)
            y = self.norm(name="bn3", scale_init=last_scale)(y, train=train)
        else:
            features = self.width
            y = conv(features, 3, self.strides, name="conv1")(x)
            y = nn.relu(self.norm(name="bn1")(y, train=train))
            y = conv(features, 3, name="conv2")(y)
            y = self.norm(name="bn2", scale_init=last_scale)(y, train=train)
        if shortcut.shape != y.shape:
            shortcut = conv(features, 1, self.strides, name="proj")(x)
            shortcut = self.norm(name="proj_bn")(shortcut, train=train)
        y = StochasticDepth(self.drop_path, name="drop_path")(y, train=train)
        return nn.relu(y + shortcut)


class ResNetStage(nn.Module):
    """Blocks at one resolution; the first one strides. Attributes as in `ResNet`, `drop_path` per block."""

    blocks: int
    width: int
    strides: int
    bottleneck: bool
    norm: Callable[..., nn.Module]
    zero_init: bool
    drop_path: Sequence[float]
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        block = nn.remat(ResNetBlock, static_argnums=(2,)) if self.remat else ResNetBlock
        for index in range(self.blocks):
            x = block(
                width=self.width,
                strides=self.strides if index == 0 else 1,
                bottleneck=self.bottleneck,
                norm=self.norm,
                zero_init=self.zero_init,
                drop_path=self.drop_path[index],
                dtype=self.dtype,
                name=f"block{index + 1}",
            )(x, train)
        return x


class ResNet(nn.Module):
    """The family.

    Attributes:
      num_classes: 0 leaves the head away.
      stage_sizes: blocks per stage; the channels double from stage to stage.
      width: channels of the first stage (before the bottleneck's factor 4).
      stem: 'imagenet' (7x7 stride 2, then 3x3 max pool stride 2), 'cifar' (3x3) or 'strided' (3x3 stride 2).
      norm: 'batch' or 'group'; `bn` is BatchNorm's mode: 'global', 'group:K' or 'frozen'.
      zero_init: start every block as the identity.
      drop_path: stochastic depth of the last block, growing linearly from 0.
      dropout: before the head.
      remat: recompute each block in the backward pass: less memory, about a third more time.
      dtype: compute type; parameters, statistics and logits stay float32.
    """

    num_classes: int = 0
    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    width: int = 64
    bottleneck: bool = False
    stem: str = "imagenet"
    norm: str = "batch"
    bn: str = "global"
    zero_init: bool = True
    drop_path: float = 0.0
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise unknown("stem", self.stem, STEMS)
        make_norm(self.norm, self.bn, self.dtype)
        check_rate("drop_path", self.drop_path)
        check_rate("dropout", self.dropout)
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        _, stride, pooled = STEMS[self.stem]
        first = stride * (2 if pooled else 1)
        return tuple(first * 2**stage for stage in range(len(self.stage_sizes)))

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        factor = 4 if self.bottleneck else 1
        return tuple(factor * self.width * 2**stage for stage in range(len(self.stage_sizes)))

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        norm = make_norm(self.norm, self.bn, self.dtype)
        x = ResNetStem(self.width, self.stem, norm, self.dtype, name="stem")(x, train)
        out: Outputs = {}
        total, done = sum(self.stage_sizes), 0
        for stage, blocks in enumerate(self.stage_sizes):
            rates = [self.drop_path * (done + block) / max(total - 1, 1) for block in range(blocks)]
            x = ResNetStage(
                blocks=blocks,
                width=self.width * 2**stage,
                strides=1 if stage == 0 else 2,
                bottleneck=self.bottleneck,
                norm=norm,
                zero_init=self.zero_init,
                drop_path=rates,
                remat=self.remat,
                dtype=self.dtype,
                name=f"stage{stage + 1}",
            )(x, train)
            out[f"stage{stage + 1}"] = x
            done += blocks
        out["pre_logits"] = global_avg_pool(x)
        if self.num_classes:
            y = Dropout(self.dropout, name="dropout")(out["pre_logits"], train=train)
            init = nn.initializers.normal(0.01)
            out["logits"] = nn.Dense(self.num_classes, kernel_init=init, name="head")(y)
        return out


class ResNetStem(nn.Module):
    """What is in front of the first stage; `kind` is one of STEMS."""

    width: int
    kind: str
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        window, strides, pooled = STEMS[self.kind]
        x = Conv(self.width, window, strides, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(self.norm(name="bn1")(x, train=train))
        return max_pool(x, 3, 2, padding=1) if pooled else x


resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2))
resnet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3))
resnet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), bottleneck=True)
resnet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), bottleneck=True)
resnet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), bottleneck=True)
resnet18_cifar = partial(ResNet, stage_sizes=(2, 2, 2, 2), stem="cifar")
resnet_small = partial(ResNet, stage_sizes=(1, 1, 1), width=16, stem="cifar")
