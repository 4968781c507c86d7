"""The inverted residual of MobileNet v2 (Sandler et al. 2018, arXiv 1801.04381, section 3), also called MBConv.

It widens by a 1x1 convolution, filters each channel on its own, and narrows by a 1x1 convolution without
activation; with squeeze-and-excitation between the last two it is that of EfficientNet. The fused form
(EfficientNet v2, arXiv 2104.00298, figure 2) widens and filters in one dense convolution.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from cnn.layers.drop import StochasticDepth

# The references' initialisation: a depthwise output sees one channel only, whatever the number of channels.
DEPTHWISE_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


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
