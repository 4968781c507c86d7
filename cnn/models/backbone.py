"""What every network has in common: its options, dilation in place of stride, rematerialisation, the head."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.drop import Dropout, check_rate
from cnn.layers.norm import make_norm
from cnn.layers.pool import check_pixels, global_avg_pool
from cnn.shapes import Outputs

OUTPUT_STRIDES = (8, 16, 32)
HEAD_INIT = nn.initializers.normal(0.01)


class Resolution:
    """The stride so far while a network is built: turns strides beyond `limit` into dilation.

    As in DeepLab (Chen et al. 2017, arXiv 1706.05587): a layer that would stride past the limit keeps the
    resolution, itself with the dilation so far, and all after it are dilated by its stride more.

    Args:
      eager: that layer itself is dilated by its stride more already.
    """

    def __init__(self, limit: int, eager: bool = False):
        self.limit, self.eager, self.stride, self.dilation = limit, eager, 1, 1

    def step(self, stride: int = 1) -> tuple[int, int]:
        """(stride, dilation) for the next layer that in the plain network has this stride."""
        dilation = self.dilation
        if self.stride * stride > self.limit:
            self.dilation *= stride
            return 1, self.dilation if self.eager else dilation
        self.stride *= stride
        return stride, dilation

    def window(self, rank: int, size: int, stride: int, padding: int = 0) -> dict[str, Any]:
        """`strides`, `dilation` and `padding` for the next pool or convolution that pads less than half its window.

        Beyond the limit the padding keeps the size, with the plain network's in front: away from the far border,
        every `stride`-th pixel of the result is a pixel of the plain network's.

        Args:
          size: of the window along each of `rank` axes.
          padding: of the plain network.
        """
        kept, dilation = self.step(stride)
        if kept == stride:
            return {"strides": stride, "dilation": dilation, "padding": padding}
        low = padding * dilation
        pads = ((low, dilation * (size - 1) - low),) * rank
        return {"strides": 1, "dilation": dilation, "padding": pads}


class Network(nn.Module):
    """Base of all networks: the options that all have; `build_model` says what calling one returns.

    Attributes:
      num_classes: outputs of the classifier.
      dropout: before the classifier.
      drop_path: stochastic depth of the last residual block, growing linearly from 0 at the first.
      norm: 'batch', 'group', 'instance', 'layer' or 'none'.
      bn: BatchNorm's mode: 'global', 'group:K' or 'frozen'.
      norm_epsilon: added to the variance; TensorFlow's networks use 1e-3.
      remat: stages (1, 2, ...) whose blocks are recomputed in the backward pass, True for all of them:
        less memory, about a third more time.
      dtype: compute type; parameters, statistics and logits stay float32.

    Class attributes:
      TINY: options of a small copy with everything of the family in it, which the test sweep runs.
      TINY_INPUT: the shape [*space, c] that the small copy is run on.
    """

    num_classes: int = 0
    dropout: float = 0.0
    drop_path: float = 0.0
    norm: str = "batch"
    bn: str = "global"
    norm_epsilon: float = 1e-5
    remat: bool | Sequence[int] = False
    dtype: Any = jnp.float32

    TINY: ClassVar[Mapping[str, Any]] = {}
    TINY_INPUT: ClassVar[tuple[int, ...]] = (32, 32, 3)

    def __post_init__(self) -> None:
        self.make_norm()
        check_rate("dropout", self.dropout)
        check_rate("drop_path", self.drop_path)
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        raise NotImplementedError  # every family says it

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        raise NotImplementedError  # every family says it

    def make_norm(self) -> Callable[..., nn.Module]:
        """The normalisation layer that `norm`, `bn` and `norm_epsilon` ask for."""
        return make_norm(self.norm, self.bn, self.dtype, self.norm_epsilon)

    def drop_path_rates(self, blocks: int) -> list[float]:
        """Rate of each of `blocks` residual blocks."""
        return [self.drop_path * block / max(blocks - 1, 1) for block in range(blocks)]

    def recomputed(self, stage: int) -> bool:
        """Whether `remat` names this stage."""
        return self.remat is True or (self.remat is not False and stage in self.remat)

    def block(self, module: type[nn.Module], stage: int) -> type[nn.Module]:
        """`module`, called `(x, train)`, recomputed in the backward pass where `remat` says so."""
        return nn.remat(module, static_argnums=(2,)) if self.recomputed(stage) else module


class Backbone(Network):
    """Base of the classifiers, which are the backbones of all other networks.

    Attributes:
      num_classes: 0 leaves the classifier away: no `logits`.
      features_only: the stages are all that is made, with no layer behind the last one: what a head for pixels or
        boxes stands on.
      output_stride: 8, 16 or 32: later strides become dilation (`Resolution`).
    """

    features_only: bool = False
    output_stride: int = 32

    def __post_init__(self) -> None:
        if self.output_stride not in OUTPUT_STRIDES:
            raise UserError(f"output_stride {self.output_stride} is not 8, 16 or 32")
        super().__post_init__()

    def limited(self, strides: Sequence[int]) -> tuple[int, ...]:
        """The plain network's strides, none beyond `output_stride`."""
        return tuple(min(stride, self.output_stride) for stride in strides)

    def classify(
        self,
        out: Outputs,
        x: Float[Array, "b *space c"],
        train: bool,
        kernel_init: Callable[..., Array] = HEAD_INIT,
    ) -> Outputs:
        """Adds `pre_logits` (the mean over space) and, with classes, `logits` from the dense layer `head`.

        Raises:
          UserError: no pixel is left to take the mean of.
        """
        check_pixels(x)
        if self.features_only:
            return out
        out["pre_logits"] = global_avg_pool(x) if x.ndim > 2 else x.astype(jnp.float32)
        if self.num_classes:
            y = Dropout(self.dropout, name="dropout")(out["pre_logits"], train=train)
            out["logits"] = nn.Dense(self.num_classes, kernel_init=kernel_init, name="head")(y)
        return out


def make_divisible(value: float, divisor: int = 8, at_least: int = 0) -> int:
    """`value` rounded to a multiple of `divisor`, never by more than 10 % down (MobileNet's code)."""
    rounded = max(at_least or divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
