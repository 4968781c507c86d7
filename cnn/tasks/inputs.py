"""What all tasks do with their inputs: types, scale, normalisation."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnn.errors import UserError


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises UserError unless there is one positive `std` for each `mean`."""
    if len(mean) != len(std) or any(value <= 0 for value in std):
        raise UserError("input.mean and input.std need one number per channel each, std above 0")


def unit(x: Any) -> Float[Array, "b *space c"]:
    """float32; bytes become [0, 1], everything else stays as it is."""
    x = jnp.asarray(x)
    return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x.astype(jnp.float32)


def normalised(
    x: Float[Array, "b *space c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b *space c"]:
    """(x - mean) / std per channel; () for both leaves `x`.

    Raises:
      UserError: `mean` has another number of channels.
    """
    if not mean:
        return x
    if x.shape[-1] != len(mean):
        raise UserError(
            f"input.mean has {len(mean)} channels, the input has {x.shape[-1]}; give one "
            "number per channel, or () for none"
        )
    shape = (1,) * (x.ndim - 1) + (-1,)
    mean, std = (np.asarray(values, np.float32).reshape(shape) for values in (mean, std))
    return (x - mean) / std
