"""GRU and LSTM networks that the studies compare convolutions with, as PyTorch has them.

They are not convolutional, so they stay out of `cnn.models`; configs name them by
`model.name=experiments.recurrent:bigru`.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.conv import fan_in_uniform
from cnn.shapes import Outputs

GATES = {"gru": 3, "lstm": 4}
UNROLL = 8  # steps per trip of the loop: a trip costs XLA:CPU about as much as such a small step


def _gru(h: Array, x: Array, kernel: Array, bias: Array) -> Array:
    """Cho et al. 2014, with the reset gate after the product (cuDNN's form). `x` [b, 3h] is already projected."""
    y = h @ kernel + bias[None]
    x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
    y_r, y_z, y_n = jnp.split(y, 3, axis=-1)
    z = nn.sigmoid(x_z + y_z)
    return (1 - z) * jnp.tanh(x_n + nn.sigmoid(x_r + y_r) * y_n) + z * h


def _lstm(state: Array, x: Array, kernel: Array, bias: Array) -> Array:
    """Hochreiter & Schmidhuber 1997 with forget gate. `state` [b, 2h] holds h and the cell."""
    h, cell = jnp.split(state, 2, axis=-1)
    i, f, g, o = jnp.split(x + h @ kernel + bias[None], 4, axis=-1)
    cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return jnp.concatenate([nn.sigmoid(o) * jnp.tanh(cell), cell], axis=-1)


class Recurrent(nn.Module):
    """One recurrent layer over `b t c` and a dense head.

    Attributes:
      cell: 'gru' or 'lstm'.
      bidirectional: a second layer runs from the end; both answers are concatenated.
      head: what the dense layer sees: 'all' steps flattened, the 'last' step, or 'each' step (logits [b, t, k]).
    """

    num_classes: int = 0
    width: int = 6
    cell: str = "gru"
    bidirectional: bool = False
    head: str = "last"
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.cell not in GATES or self.head not in ("all", "last", "each") or self.width < 1:
            raise ValueError("cell is 'gru' or 'lstm', head 'all', 'last' or 'each', width at least 1")
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input steps per feature step."""
        return (1,)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, both directions together."""
        return (self.width * (1 + self.bidirectional),)

    def _layer(self, x: Float[Array, "b t c"], name: str) -> Float[Array, "b t h"]:
        init, wide = fan_in_uniform(self.width), GATES[self.cell] * self.width  # PyTorch: 1 / sqrt(width) for all
        w_in = self.param(f"{name}_kernel_in", init, (x.shape[-1], wide))
        w_state = self.param(f"{name}_kernel_state", init, (self.width, wide))
        b_in = self.param(f"{name}_bias_in", init, (wide,))
        b_state = self.param(f"{name}_bias_state", init, (wide,))
        step = {"gru": _gru, "lstm": _lstm}[self.cell]
        projected = x @ w_in + b_in.reshape(1, 1, wide)  # of all steps at once: it does not wait for the state

        def body(state: Array, x: Array) -> tuple[Array, Array]:
            state = step(state, x, w_state, b_state)
            return state, state[:, : self.width]

        start = jnp.zeros((x.shape[0], self.width * (2 if self.cell == "lstm" else 1)))
        _, out = jax.lax.scan(body, start, projected.swapaxes(0, 1), unroll=UNROLL)
        return out.swapaxes(0, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], *, train: bool) -> Outputs:
        y = self._layer(x, "forward")
        if self.bidirectional:
            y = jnp.concatenate([y, self._layer(x[:, ::-1], "backward")[:, ::-1]], axis=-1)
        features = {
            "all": lambda: y.reshape(y.shape[0], math.prod(y.shape[1:])),
            "last": lambda: y[:, -1],
            "each": lambda: y,
        }[self.head]()
        out: Outputs = {"stage1": y.astype(self.dtype), "pre_logits": features}
        if self.num_classes:
            init = fan_in_uniform(features.shape[-1])
            out["logits"] = nn.Dense(self.num_classes, kernel_init=init, bias_init=init, name="head")(features)
        return out


bigru = partial(Recurrent, width=6, bidirectional=True, head="all")
gru = partial(Recurrent, cell="gru")
lstm = partial(Recurrent, cell="lstm")
