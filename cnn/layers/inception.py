"""The block of the Inception networks: chains of convolutions side by side, written as a table."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.blocks import ConvNorm
from cnn.layers.conv import Sizes
from cnn.layers.pool import avg_pool, max_pool

Layer = tuple[int, Sizes]  # channels, window
# One after the other; several in one place, which only the last may be, see the same input.
Branch = Sequence[Layer | tuple[Layer, ...]]


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, at least one."""
    return max(round(channels * width), 1)


def block_channels(branches: Sequence[Branch], width: float) -> int:
    """Channels that come out of a block all of whose branches end in a convolution."""
    return sum(scaled(channels, width) for branch in branches for channels, _ in _side_by_side(branch[-1]))


def _side_by_side(step: Layer | tuple[Layer, ...]) -> tuple[Layer, ...]:
    return (step,) if isinstance(step[0], int) else step


class InceptionBlock(nn.Module):
    """All branches see the input, their outputs are concatenated. Parameters `branch{i}_conv{j}`.

    Attributes:
      branches: the last one begins with a 3x3 pool, and may be nothing else.
      norm: makes the normalisation layers, as `Backbone.make_norm` gives it.
      pool: 'avg' (padding counts as zeros) or 'max'.
      width: multiplies all channels.
      dilation: of all windows.
      strided: `strides`, `dilation` and `padding` of the 3x3 windows that end the branches of a block that
        reduces the resolution.
    """

    branches: Sequence[Branch]
    norm: Callable[..., nn.Module]
    pool: str = "avg"
    width: float = 1.0
    dilation: int = 1
    strided: Mapping[str, Any] | None = None
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.1)

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        same = {"strides": 1, "dilation": self.dilation}
        last = self.strided or {**same, "padding": self.dilation}
        pool = max_pool if self.pool == "max" else partial(avg_pool, count_padding=True)
        ends = []
        for number, branch in enumerate(self.branches, 1):
            tips = [pool(x, 3, **last) if number == len(self.branches) else x]
            count = 0
            for step, layers in enumerate(branch, 1):
                window = last if self.strided and step == len(branch) else same
                previous, tips = tips[0], []
                for channels, size in _side_by_side(layers):
                    count += 1
                    layer = ConvNorm(
                        scaled(channels, self.width),
                        size,
                        **window,
                        norm=self.norm,
                        dtype=self.dtype,
                        kernel_init=self.kernel_init,
                        name=f"branch{number}_conv{count}",
                    )
                    tips.append(layer(previous, train))
            ends += tips
        return jnp.concatenate(ends, axis=-1)
