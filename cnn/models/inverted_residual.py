"""The inverted residual, and the network that is a list of them: base of MobileNets, MNASNet, EfficientNets.

An inverted residual (MobileNet v2, Sandler et al. 2018, arXiv 1801.04381, section 3) widens by a 1x1 convolution,
filters each channel on its own, and narrows by a 1x1 convolution without activation. With squeeze-and-excitation
between the last two it is MBConv. The fused form (EfficientNet v2, arXiv 2104.00298, figure 2) widens and filters
in one dense convolution.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.layers.attention import SqueezeExcite
from cnn.layers.blocks import ACTIVATIONS, ConvNorm
from cnn.layers.conv import Padding
from cnn.layers.drop import StochasticDepth
from cnn.layers.pool import global_avg_pool
from cnn.models.backbone import HEAD_INIT, Backbone, Resolution
from cnn.shapes import Outputs

# The references' initialisations: a depthwise output sees one channel only, whatever the number of channels.
DEPTHWISE_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
FAN_OUT_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


@dataclasses.dataclass(frozen=True)
class Block:
    """Sizes of one block.

    Attributes:
      channels: that come out.
      kernel: window of the convolution over space.
      expanded: channels in between; 0 does not widen.
      reduced: channels inside the squeeze-and-excitation; 0 leaves it away.
      fused: the widening convolution is the one over space; without widening the block is that one layer.
      skip: add the input where the shapes agree.
      act: name in ACTIVATIONS; `last_act` is the one behind the last convolution.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    expanded: int = 0
    reduced: int = 0
    fused: bool = False
    skip: bool = True
    act: str = "relu6"
    last_act: str = "none"


class Row(NamedTuple):
    """A line of the papers' tables: `repeats` blocks of which the first strides, `expand` times wider inside."""

    expand: int
    kernel: int
    stride: int
    channels: int
    repeats: int
    fused: bool = False


def lay_out(
    rows: Sequence[tuple],
    before: int,
    wide: Callable[[int], int],
    depth: float = 1.0,
    fixed_ends: bool = False,
    se: bool = False,
    act: str = "relu6",
) -> list[Block]:
    """The blocks that a table stands for.

    Args:
      rows: the fields of `Row`.
      before: channels of the stem.
      wide: the channels in place of a row's.
      depth: factor of the repeats, rounded up; with `fixed_ends` not of the first and the last row.
      se: squeeze-and-excitation in blocks that are not fused, to a quarter of what comes into the block.
    """
    blocks: list[Block] = []
    for index, row in enumerate(rows):
        row = Row(*row)
        fixed = fixed_ends and index in (0, len(rows) - 1)
        for repeat in range(row.repeats if fixed else math.ceil(row.repeats * depth)):
            block = Block(
                channels=wide(row.channels),
                kernel=row.kernel,
                stride=row.stride if repeat == 0 else 1,
                expanded=before * row.expand if row.expand > 1 else 0,
                reduced=max(before // 4, 1) if se and not row.fused else 0,
                fused=row.fused,
                act=act,
                last_act=act if row.fused and row.expand == 1 else "none",
            )
            blocks.append(block)
            before = block.channels
    return blocks


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of a whole network.

    Attributes:
      stem: channels of the 3x3 convolution of stride 2 in front.
      top: channels of the 1x1 convolution behind the last block; 0 for none.
      hidden: of the dense layer between the pooling and the classifier; 0 for none.
      act: of those three.
      se: makes the squeeze-and-excitation of a block.
      head_init: of the dense layers' kernels.
    """

    stem: int
    blocks: Sequence[Block]
    top: int = 0
    hidden: int = 0
    act: str = "relu6"
    se: Callable[..., nn.Module] = SqueezeExcite
    head_init: Callable[..., Array] = HEAD_INIT

    def stages(self) -> list[list[Block]]:
        """The blocks, a new list at each one that strides; the first has the stem's resolution and may be empty."""
        found: list[list[Block]] = [[]]
        for block in self.blocks:
            if block.stride > 1:
                found.append([])
            found[-1].append(block)
        return found


class InvertedResidual(nn.Module):
    """One block. Parameters below `expand`, `depthwise`, `se`, `project`, those that it has.

    Attributes:
      layer: makes a ConvNorm with the network's normalisation and padding.
      strides, dilation: of the convolution over space; `sizes.stride` is the plain network's.
    """

    sizes: Block
    strides: int
    dilation: int
    layer: Callable[..., nn.Module]
    se: Callable[..., nn.Module]
    drop_path: float

    # `train` is positional because `nn.remat` marks static arguments by position.
    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        sizes, shortcut = self.sizes, x
        layer = partial(self.layer, act=sizes.act)
        over_space = {
            "kernel_size": sizes.kernel,
            "strides": self.strides,
            "dilation": self.dilation,
        }
        last = {"kernel_size": 1}
        if sizes.fused and not sizes.expanded:
            last = over_space
        elif sizes.expanded:
            widen = over_space if sizes.fused else {"kernel_size": 1}
            x = layer(sizes.expanded, **widen, name="expand")(x, train)
        if not sizes.fused:
            channels = x.shape[-1]
            depthwise = layer(
                channels,
                groups=channels,
                kernel_init=DEPTHWISE_INIT,
                **over_space,
                name="depthwise",
            )
            x = depthwise(x, train)
        if sizes.reduced:
            x = self.se(sizes.reduced, name="se")(x)
        x = self.layer(sizes.channels, act=sizes.last_act, **last, name="project")(x, train)
        if sizes.skip and x.shape == shortcut.shape:
            x = StochasticDepth(self.drop_path, name="drop_path")(x, train=train) + shortcut
        return x


class Stage(nn.Module):
    """Blocks in a row, named `block1`, `block2`, ...; each of `blocks` makes one."""

    blocks: Sequence[Callable[..., nn.Module]]

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        for number, block in enumerate(self.blocks, 1):
            x = block(name=f"block{number}")(x, train)
        return x


class MobileBackbone(Backbone):
    """Stem, inverted residuals, classifier, as the family's `plan` says.

    A stage ends before the next block that strides, the convention of timm's `feature_info`: all blocks of one
    resolution are one stage, whatever the lines of the paper's table. Stage 1 has stride 2 and is the stem alone
    where the first block strides. The last convolution (`top`) belongs to the classifier.

    Attributes:
      padding: None pads both sides alike (torchvision, timm), 'SAME' is TensorFlow's, of the `tf_` variants.
    """

    padding: Padding = None

    def plan(self) -> Plan:
        """The sizes, from the family's options."""
        raise NotImplementedError  # every family says it

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        strides = [2]
        for stage in self.plan().stages()[1:]:
            strides.append(strides[-1] * stage[0].stride)
        return self.limited(strides)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        plan = self.plan()
        return tuple(stage[-1].channels if stage else plan.stem for stage in plan.stages())

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        plan, resolution = self.plan(), Resolution(self.output_stride)
        layer = partial(ConvNorm, norm=self.make_norm(), padding=self.padding, dtype=self.dtype)
        se = partial(plan.se, dtype=self.dtype)
        rates = iter(self.drop_path_rates(len(plan.blocks)))
        x = layer(plan.stem, 3, resolution.step(2)[0], act=plan.act, name="stem")(x, train)
        out: Outputs = {}
        for number, stage in enumerate(plan.stages(), 1):
            blocks = []
            for sizes in stage:
                strides, dilation = resolution.step(sizes.stride)
                blocks.append(
                    partial(
                        self.block(InvertedResidual, number),
                        sizes=sizes,
                        strides=strides,
                        dilation=dilation,
                        layer=layer,
                        se=se,
                        drop_path=next(rates),
                    )
                )
            x = Stage(blocks, name=f"stage{number}")(x, train)
            out[f"stage{number}"] = x
        if plan.top:
            x = layer(plan.top, 1, act=plan.act, name="top")(x, train)
        if plan.hidden:
            x = nn.Dense(plan.hidden, kernel_init=plan.head_init, name="hidden")(global_avg_pool(x))
            x = ACTIVATIONS[plan.act](x)
        return self.classify(out, x, train, plan.head_init)
