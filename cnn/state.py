"""The training state: a plain struct of arrays, nothing else in it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class TrainState:
    """Everything that changes from step to step.

    Attributes:
      step: int32 scalar, the number of updates made; the next batch is batch `step`.
      bad_step: int32 scalar, -1, or the step whose loss or gradient was not finite. From then on no
        update is made, so the state stays what it was before that batch until the loop looks.
      params: float32 parameters.
      batch_stats: running statistics of BatchNorm ({} without).
      opt_state: the optimizer's.
      ema: {'params', 'batch_stats'} averages, or {} when `optim.ema_decay` is 0.
    """

    step: Any  # not jax.Array: trees of shapes and of shardings have this form too
    bad_step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any

    def variables(self) -> dict[str, Any]:
        """What to evaluate: the averages when there are any, else the parameters themselves."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


def init_variables(model: Any, inputs: Any, seed: int | jax.Array) -> dict[str, Any]:
    """Fresh {'params', 'batch_stats'} of a model for a tree of inputs of these shapes; pure, for jit and eval_shape."""
    variables = model.init(jax.random.key(seed), inputs, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def new_state(variables: dict[str, Any], tx: Any, ema: bool) -> TrainState:
    """The state before the first step.

    Args:
      tx: the optimizer, an `optax.GradientTransformation`; not imported here, since predicting needs none.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        bad_step=jnp.full((), -1, jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        # Copies: the step donates its state, and one buffer cannot be donated twice.
        ema=jax.tree.map(jnp.copy, variables) if ema else {},
    )
