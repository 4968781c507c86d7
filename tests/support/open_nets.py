"""Networks small enough that what `cnn.inspect` must say about them can be worked out by hand."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn.inspect.network import Network
from cnn.layers.pool import global_avg_pool


class Stack(nn.Module):
    """`body` as stage1, the mean over space, and a dense layer.

    Attributes:
      body: (x, train) -> features; makes modules by itself.
    """

    body: Callable[[Any], Any]
    num_classes: int = 3

    @nn.compact
    def __call__(self, x, *, train):
        x = self.body(x)
        out = {"stage1": x, "pre_logits": global_avg_pool(x)}
        if self.num_classes:
            out["logits"] = nn.Dense(self.num_classes, name="head")(out["pre_logits"])
        return out


def network(
    body: Callable[[Any], Any],
    shape: tuple[int, ...],
    change: Callable[[Any], Any] = lambda v: v,
    seed: int = 0,
) -> Network:
    """The stack with fresh parameters, of which `change` makes others."""
    model = Stack(body)
    variables = model.init(jax.random.key(seed), jnp.zeros((1, *shape)), train=False)
    return Network(model, change(variables))


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """One input [1, *space, c]."""
    return np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
