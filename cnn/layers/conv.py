"""Convolution over any number of spatial axes, plain and transposed: a function and a module each.

Every convolution of the project goes through here; how it runs on which backend is in cnn.layers.lowering.
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
from cnn.layers import lowering

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
    if x.shape[-1] != kernel.shape[-2] * groups or kernel.shape[-1] % groups:
        _check_rank(x, kernel)
        raise UserError(
            f"{x.shape[-1]} -> {kernel.shape[-1]} channels do not fit {groups} groups "
            f"of {kernel.shape[-2]} input channels"
        )
    spec = _spec(x, kernel, strides, padding, dilation, groups, x.shape[1:-1])
    return lowering.forward(x, kernel, spec)


def conv_transpose(
    x: Float[Array, "b *space i"],
    kernel: Float[Array, "*window o_group i"],
    strides: Sizes = 1,
    padding: Padding = None,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Float[Array, "b *out o"]:
    """Transposed convolution ("deconvolution"), as PyTorch's ConvTranspose counts it.

    The linear map that `conv` with the same kernel, strides, padding, dilation and groups has as its gradient:
    the kernel is that convolution's, from this function's outputs to its inputs. An axis of n becomes

        (n - 1) * strides - low - high + dilation * (k - 1) + 1 + output_padding

    long; so kernel 2, stride 2, padding 0 doubles it, and so do kernel 4, stride 2, padding 1 and kernel 3,
    stride 2, padding 1, output_padding 1.

    Args:
      kernel: `o_group` is output channels / groups. PyTorch's weight [i, o_group, *window] is its transpose.
      padding: a number, (low, high) pairs, 'VALID' for 0, or None for `dilation * (k - 1) // 2`; it is cut
        away from the result.
      output_padding: more rows at the high end, less than the larger of stride and dilation.

    Raises:
      UserError: kernel, strides, padding or groups do not fit the input.
    """
    if x.shape[-1] != kernel.shape[-1] or x.shape[-1] % groups:
        _check_rank(x, kernel)
        raise UserError(
            f"{x.shape[-1]} channels do not fit {groups} groups and a kernel from {kernel.shape[-1]}"
        )
    if padding == "SAME":
        raise UserError("padding 'SAME' does not say how large a transposed convolution's result is")
    spec = _spec(x, kernel, strides, padding, dilation, groups, x.shape[1:-1])
    more = per_axis(output_padding, x.ndim - 2, "output_padding")
    if any(not 0 <= m < max(step, gap) for m, step, gap in zip(more, spec.strides, spec.dilation, strict=True)):
        raise UserError(f"output_padding {more} is not within 0 and strides {spec.strides}")
    space = tuple(
        (n - 1) * step - low - high + gap * (k - 1) + 1 + extra
        for n, k, step, (low, high), gap, extra in zip(
            x.shape[1:-1], kernel.shape, spec.strides, spec.padding, spec.dilation, more, strict=False
        )
    )
    if min(space, default=0) < 0:
        raise UserError(f"padding {spec.padding} is more than the transposed convolution makes")
    return lowering.input_gradient(x, kernel, spec, space)


def _check_rank(x: Array, kernel: Array) -> None:
    if kernel.ndim != x.ndim:
        raise UserError(
            f"a kernel of {kernel.ndim - 2} spatial axes cannot run over an input of {x.ndim - 2}"
        )


def _spec(
    x: Array, kernel: Array, strides: Sizes, padding: Padding, dilation: Sizes, groups: int, space: Sequence[int]
) -> lowering.Spec:
    """The same, with one number per spatial axis."""
    _check_rank(x, kernel)
    rank, window = len(space), kernel.shape[:-2]
    strides, dilation = per_axis(strides, rank, "strides"), per_axis(dilation, rank, "dilation")
    pairs = explicit_padding(padding, window, dilation)
    if isinstance(pairs, str):
        spans = [gap * (size - 1) + 1 for size, gap in zip(window, dilation, strict=True)]
        pairs = tuple(lax.padtype_to_pads(space, spans, strides, pairs))
    return lowering.Spec(strides, pairs, dilation, groups, jax.config.jax_default_matmul_precision)


def add_bias(layer: Any, x: Float[Array, "b *out o"]) -> Float[Array, "b *out o"]:
    """Adds the parameter `bias` of a convolution layer, one number per channel."""
    bias = layer.param("bias", layer.bias_init, (layer.features,), jnp.float32)
    return x + bias.astype(layer.dtype).reshape((1,) * (x.ndim - 1) + bias.shape)


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
        return add_bias(self, x) if self.use_bias else x

    def prepared(self, kernel: Float[Array, "*window i o"]) -> Float[Array, "*window i o"]:
        """The kernel that is convolved with; layers that reparameterise it say how (`cnn.layers.std_conv`)."""
        return kernel


class ConvTranspose(nn.Module):
    """A transposed convolution with its own kernel; spatial rank from the input.

    Parameters `kernel` [*window, o / groups, i] and `bias` [o] are float32; `dtype` is the compute type.

    Attributes:
      features: output channels.
      padding, output_padding: as in `conv_transpose`; the default doubles the size exactly.
    """

    features: int
    kernel_size: Sizes = 2
    strides: Sizes = 2
    padding: Padding = 0
    output_padding: Sizes = 0
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
        shape = (*window, self.features // self.groups, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = conv_transpose(
            x, kernel, self.strides, self.padding, self.output_padding, self.dilation, self.groups
        )
        return add_bias(self, x) if self.use_bias else x
