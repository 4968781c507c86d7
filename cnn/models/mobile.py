"""The network that is a list of inverted residuals: base of the MobileNets, MNASNet and the EfficientNets."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.errors import UserError, unknown
from cnn.layers.attention import SqueezeExcite
from cnn.layers.blocks import ConvNorm, EveryBlock, Stage, activation
from cnn.layers.conv import Padding
from cnn.layers.inverted_residual import Block, InvertedResidual
from cnn.layers.pool import global_avg_pool
from cnn.models.backbone import HEAD_INIT, Backbone, Resolution
from cnn.shapes import Outputs

# Of the dense layers in the references of MNASNet and EfficientNet: U(-a, a), a = 1 / sqrt(outputs).
STAGE_ENDS = ("last", "first")
FAN_OUT_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


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

    Raises:
      UserError: `depth` is not positive.
    """
    if depth <= 0:
        raise UserError(f"depth {depth} is not a factor above 0")
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


class MobileBackbone(Backbone):
    """Stem, inverted residuals, classifier, as the family's `plan` says.

    A stage ends before the next block that strides, the convention of timm's `feature_info`: all blocks of one
    resolution are one stage, whatever the lines of the paper's table. Stage 1 has stride 2 and is the stem alone
    where the first block strides. The last convolution (`top`) belongs to the classifier.

    Attributes:
      layout: lines of a table, its named tuples or plain ones with the same fields; every family has its own.
      width: factor of the channels.
      padding: None pads both sides alike (torchvision, timm), 'SAME' is TensorFlow's, of the `tf_` variants.
      stage_end: 'last', or 'first': a stage gives what comes out of the layer that strides (the stem, then its
        first block), the last stage still that of its last block. torchvision's networks for pixels and boxes see
        these. Their parameters are the same.
      eager_dilation: where `output_stride` keeps a block from striding, it is dilated itself too (torchvision).
    """

    layout: Sequence[tuple] = ()
    width: float = 1.0
    padding: Padding = None
    stage_end: str = "last"
    eager_dilation: bool = False

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise UserError(f"width {self.width} is not a factor above 0")
        if not self.layout:
            raise UserError("layout has no rows; each is a line of the paper's table")
        if self.stage_end not in STAGE_ENDS:
            raise unknown("stage_end", self.stage_end, STAGE_ENDS)
        self.plan()  # refuses what it cannot be made of
        super().__post_init__()

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
        ends = [stage[-1].channels if stage else plan.stem for stage in plan.stages()]
        if self.stage_end == "first":
            ends[:-1] = [plan.stem, *(stage[0].channels for stage in plan.stages()[1:-1])]
        return tuple(ends)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        plan, resolution = self.plan(), Resolution(self.output_stride, self.eager_dilation)
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
            name, strided = f"stage{number}", x
            if self.stage_end == "first" and blocks:
                found = EveryBlock(blocks, name=name)(x, train)
                strided, x = (x if number == 1 else found[0]), found[-1]
            else:
                x = Stage(blocks, name=name)(x, train)
            out[name] = strided if self.stage_end == "first" and number < len(plan.stages()) else x
        if self.features_only:
            return out
        if plan.top:
            x = layer(plan.top, 1, act=plan.act, name="top")(x, train)
        if plan.hidden:
            x = nn.Dense(plan.hidden, kernel_init=plan.head_init, name="hidden")(global_avg_pool(x))
            x = activation(plan.act)(x)
        return self.classify(out, x, train, plan.head_init)
