"""Convolution over any number of spatial axes: the one function and the one module.

Every convolution of the project goes through `conv`, so a lowering for one backend changes one file.
Linen's own `nn.Conv` is not used: it pads asymmetrically ('SAME') by default, where published CNN
recipes and weights (torchvision, timm) pad both sides alike.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnn.errors import UserError

Sizes = int | Sequence[int]
Padding = None | str | int | Sequence[Sequence[int]]

# He et al. 2015 (arXiv 1502.01852), over the outputs as ResNet's authors and torchvision do.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's default for kernels: U(-a, a), a = 1/sqrt(fan_in).
default_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def fan_in_uniform(fan_in: int) -> Callable[..., Array]:
    """PyTorch's default for kernels and biases of dense and conv layers: U(-a, a), a = 1/sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def per_axis(value: Sizes, rank: int, what: str) -> tuple[int, ...]:
    """`value` once per spatial axis.

    Raises:
      UserError: a sequence of another length than `rank`.
    """
    if isinstance(value, int):
        return (value,) * rank
    if len(value) != rank:
        raise UserError(
            f"{what} {tuple(value)} is for {len(value)} spatial axes, the input has {rank}"
        )
    return tuple(value)


def explicit_padding(
    padding: Padding, window: Sequence[int], dilation: Sequence[int]
) -> str | tuple[tuple[int, int], ...]:
    """Padding as `lax` takes it: 'SAME', 'VALID' or one (low, high) pair per spatial axis.

    None is PyTorch's "k // 2" on both sides: an odd window at stride 1 keeps the size, and stride 2
    samples the same grid for even and odd inputs, which 'SAME' does not.

    Raises:
      UserError: a name other than 'SAME' and 'VALID', or pairs for another number of axes.
    """
    rank = len(window)
    if padding is None:
        sides = [step * (size - 1) // 2 for size, step in zip(window, dilation, strict=True)]
        return tuple((side, side) for side in sides)
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise UserError(
                f"padding '{padding}' is not 'SAME', 'VALID', a number or (low, high) pairs"
            )
        return padding
    if isinstance(padding, int):
        return ((padding, padding),) * rank
    if len(padding) != rank:
        raise UserError(
            f"padding {padding} has {len(padding)} pairs, the input has {rank} spatial axes"
        )
    return tuple((low, high) for low, high in padding)


def conv(
    x: Float[Array, "b *space i"],
    kernel: Float[Array, "*window i_group o"],
    strides: Sizes = 1,
    padding: Padding = None,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Float[Array, "b *out o"]:
    """Cross-correlation; the spatial rank is that of `kernel` (1-D, 2-D and 3-D).

    Args:
      x: input, channels last.
      kernel: one window per output channel; `i_group` is input channels / groups.
      strides: steps of the window, one number or one per axis.
      padding: 'SAME', 'VALID', a number, (low, high) pairs, or None for `dilation * (k - 1) // 2`.
      dilation: distance between the window's samples.
      groups: channel groups that do not see each other; the number of input channels is depthwise.

    Raises:
      UserError: kernel, strides, padding or groups do not fit the input.
    """
    rank = x.ndim - 2
    window = kernel.shape[:-2]
    if len(window) != rank:
        raise UserError(
            f"a kernel of {len(window)} spatial axes cannot run over an input of {rank}"
        )
    if x.shape[-1] != kernel.shape[-2] * groups or kernel.shape[-1] % groups:
        raise UserError(
            f"{x.shape[-1]} -> {kernel.shape[-1]} channels do not fit {groups} groups "
            f"of {kernel.shape[-2]} input channels"
        )
    dilation = per_axis(dilation, rank, "dilation")
    space = "DHW"[-rank:] if rank <= 3 else "".join(chr(ord("a") + axis) for axis in range(rank))
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=per_axis(strides, rank, "strides"),
        padding=explicit_padding(padding, window, dilation),
        rhs_dilation=dilation,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        feature_group_count=groups,
    )


class Conv(nn.Module):
    """A convolution with its own kernel; spatial rank from the input.

    Parameters `kernel` [*window, i / groups, o] and `bias` [o] are float32; `dtype` is the compute type.

    Attributes:
      features: output channels.
      kernel_size: window, one number or one per spatial axis.
      padding: as in `conv`; None pads both sides by `dilation * (k - 1) // 2`.
    """

    features: int
    kernel_size: Sizes = 3
    strides: Sizes = 1
    padding: Padding = None
    dilation: Sizes = 1
    groups: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = he_normal
    bias_init: Callable[..., Array] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b *space i"]) -> Float[Array, "b *out o"]:
        window = per_axis(self.kernel_size, x.ndim - 2, "kernel_size")
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise UserError(
                f"{self.groups} groups do not divide {x.shape[-1]} -> {self.features} channels"
            )
        shape = (*window, x.shape[-1] // self.groups, self.features)
        kernel = self.prepared(self.param("kernel", self.kernel_init, shape, jnp.float32))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = conv(x, kernel, self.strides, self.padding, self.dilation, self.groups)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            x = x + bias.astype(self.dtype).reshape((1,) * (x.ndim - 1) + bias.shape)
        return x

    def prepared(self, kernel: Float[Array, "*window i o"]) -> Float[Array, "*window i o"]:
        """The kernel that is convolved with; layers that reparameterise it say how (`cnn.layers.std_conv`)."""
        return kernel
