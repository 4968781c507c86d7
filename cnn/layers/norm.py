"""Batch and group normalisation over channels-last arrays of any rank."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnn.errors import UserError, unknown


def group_size(mode: str) -> int | None:
    """Examples per BatchNorm group: K of 'group:K', 0 for 'global', None for 'frozen'.

    Raises:
      UserError: anything else.
    """
    if mode == "global":
        return 0
    if mode == "frozen":
        return None
    kind, _, number = mode.partition(":")
    if kind != "group" or not number.isdigit() or int(number) < 1:
        raise UserError(
            f"bn '{mode}' is not 'global', 'group:K' (K examples per group) or 'frozen'"
        )
    return int(number)


def moments(
    x: Float[Array, "b *space c"], group: int, shift: Float[Array, " c"]
) -> tuple[Float[Array, "n c"], Float[Array, "n c"]]:
    """Mean and (biased) variance of each group of `group` consecutive rows, in float32.

    One pass over `x`, because batch norm is bound by memory traffic. E[x^2] - E[x]^2 cancels when the
    mean is large against the spread, so both are taken of `x - shift`; any shift gives the same answer
    and one near the mean gives it exactly, and the running mean is one.

    Raises:
      UserError: `group` does not divide the batch.
    """
    batch = x.shape[0]
    if batch % group:
        raise UserError(f"bn 'group:{group}' needs a batch size that {group} divides, got {batch}")
    # Only the batch axis is split: merging it with space could cost a copy where batch is laid out last.
    x = x.astype(jnp.float32).reshape(batch // group, group, *x.shape[1:])
    within = tuple(range(1, x.ndim - 1))
    centred = x - over_channels(lax.stop_gradient(shift), x.ndim)
    mean = centred.mean(axis=within)
    variance = jnp.maximum(jnp.square(centred).mean(axis=within) - jnp.square(mean), 0)
    return mean + shift[None], variance


def over_channels(values: Float[Array, " c"], rank: int) -> Float[Array, "..."]:
    """[c] as [1, .., 1, c] of `rank` axes: ranks are never promoted silently in this project."""
    return values.reshape((1,) * (rank - 1) + values.shape)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) with one explicit meaning on every device count.

    Parameters `scale`, `bias` [c]; collection 'batch_stats' with `mean`, `var` [c]; all float32. Where
    'batch_moments' is mutable, a training pass also leaves the batch's own `mean` and `var` [c] there, so
    that a trainer can average exact statistics over many batches.

    Modes, while training:
      'global': statistics over the whole batch; under `jit` that is the global batch of all devices.
      'group:K': over each K consecutive rows of the global batch ("ghost" batch norm, Hoffer et al. 2017);
        without communication when K divides the rows per device. K = batch / devices is what most
        data-parallel code does by accident.
      'frozen': the running statistics, which stay; `scale` and `bias` still learn (optim.freeze stops them).

    The running mean is the mean of the group means; the running variance is the variance over the whole
    batch, that is the mean variance within groups plus the variance of the group means (averaging group
    variances alone, as is common, underestimates it). It is the biased variance; PyTorch keeps n/(n-1) of it.

    Attributes:
      momentum: weight of the old running value (PyTorch's momentum is 1 minus this).
    """

    mode: str = "global"
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Float[Array, "b *space c"]:
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        group = group_size(self.mode)
        # Parameters are made from a batch of one, which no group divides; nothing is normalised there.
        if not train or group is None or self.is_initializing():
            mean, var = running_mean.value[None], running_var.value[None]
        else:
            mean, var = moments(x, group or x.shape[0], running_mean.value)
            self._update(running_mean, running_var, mean, var)
        return self._normalise(x, mean, var, scale, bias)

    def _update(self, running_mean: Any, running_var: Any, mean: Array, var: Array) -> None:
        pooled_mean = mean.mean(axis=0)
        pooled_var = var.mean(axis=0) + jnp.square(mean - pooled_mean[None]).mean(axis=0)
        keep_last = {"reduce_fn": lambda old, new: new, "init_fn": lambda: None}
        self.sow("batch_moments", "mean", pooled_mean, **keep_last)
        self.sow("batch_moments", "var", pooled_var, **keep_last)
        if self.is_mutable_collection("batch_stats"):
            running_mean.value = (
                self.momentum * running_mean.value + (1 - self.momentum) * pooled_mean
            )
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * pooled_var

    def _normalise(self, x: Array, mean: Array, var: Array, scale: Array, bias: Array) -> Array:
        y = x.astype(jnp.float32).reshape(mean.shape[0], -1, *x.shape[1:])
        # The mean meets the bias, not `y`, in the derivative: its gradient is then the factor times the sum that `bias`
        # has. XLA:CPU would write one more array as large as `x` to sum it. `mean - fixed` is zero, and the function is
        # the same in all its derivatives.
        fixed = lax.stop_gradient(mean)
        factor = scale[None] * lax.rsqrt(var + self.epsilon)
        offset = bias[None] - (mean - fixed) * factor
        fixed, factor, offset = (v.reshape(-1, *(1,) * (y.ndim - 2), x.shape[-1]) for v in (fixed, factor, offset))
        return ((y - fixed) * factor + offset).reshape(x.shape).astype(self.dtype)


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018): no running statistics, the same in training and evaluation.

    Attributes:
      groups: channel groups; where they do not divide the channels, their greatest common divisor. 0 is one for
        each channel: instance normalisation (Ulyanov et al. 2016, arXiv 1607.08022).
    """

    groups: int = 32
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Float[Array, "b *space c"]:
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        groups = math.gcd(self.groups, channels)
        y = x.astype(jnp.float32).reshape(x.shape[0], -1, groups, channels // groups)
        mean = y.mean(axis=(1, 3), keepdims=True)
        var = jnp.square(y - mean).mean(axis=(1, 3), keepdims=True)
        y = ((y - mean) * lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (y * over_channels(scale, x.ndim) + over_channels(bias, x.ndim)).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the channels of each position (Ba et al. 2016, as ConvNeXt uses it)."""

    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Float[Array, "b *space c"]:
        scale = self.param("scale", self.scale_init, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        y = x.astype(jnp.float32)
        mean = y.mean(axis=-1, keepdims=True)
        var = jnp.square(y - mean).mean(axis=-1, keepdims=True)
        y = (y - mean) * lax.rsqrt(var + self.epsilon)
        return (y * over_channels(scale, x.ndim) + over_channels(bias, x.ndim)).astype(self.dtype)


class NoNorm(nn.Module):
    """The identity: no parameters, for networks that are trained without normalisation."""

    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Float[Array, "b *space c"]:
        return x


def make_norm(norm: str, bn: str, dtype: Any, epsilon: float = 1e-5) -> Callable[..., nn.Module]:
    """The normalisation layer of a model: options `norm` and, for BatchNorm's mode, `bn`.

    Raises:
      UserError: an unknown `norm` or `bn`.
    """
    group_size(bn)
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if norm == "none":
        return NoNorm
    mode = {"mode": bn} if norm == "batch" else {}
    return partial(NORMS[norm], epsilon=epsilon, dtype=dtype, **mode)


NORMS = {
    "batch": BatchNorm,
    "group": GroupNorm,
    "instance": partial(GroupNorm, groups=0),
    "layer": LayerNorm,
    "none": NoNorm,
}
