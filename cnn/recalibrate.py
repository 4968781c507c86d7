"""Exact BatchNorm statistics after training ("precise BN", Wu & Johnson 2021, section 3)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnn.plan import Plan
from cnn.shapes import Batch
from cnn.state import TrainState


def recalibrated(plan: Plan, state: TrainState, count: int) -> TrainState:
    """`state` with the running statistics replaced by exact ones over `count` training batches.

    Those of the averaged parameters are measured with the averaged parameters.
    """
    measure = jax.jit(make_moments_step(plan.built.model, plan.built.task))

    def exact(params: Any, batch_stats: Any) -> Any:
        if not batch_stats:
            return batch_stats
        variables = {"params": params, "batch_stats": batch_stats}
        found = [
            jax.block_until_ready(measure(variables, plan.place(plan.batches[i]))) for i in range(count)
        ]
        return pooled_statistics(found) if found[0] else batch_stats  # frozen ones measure nothing

    state = state.replace(batch_stats=exact(state.params, state.batch_stats))
    if state.ema:
        state = state.replace(ema={**state.ema, "batch_stats": exact(**state.ema)})
    return jax.device_put(state, plan.placement)


def make_moments_step(model: Any, task: Any) -> Callable[[Any, Batch], Any]:
    """`(variables, batch) -> {layer: {mean, var}}`: what each BatchNorm measured on this batch."""

    def moments_step(variables: Any, batch: Batch) -> Any:
        _, changed = model.apply(
            variables,
            task.inputs(batch),
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats", "batch_moments"],
        )
        return changed.get("batch_moments", {})

    return moments_step


def pooled_statistics(moments: list[Any]) -> Any:
    """Mean and variance over several equal batches from each batch's own (law of total variance)."""

    def pool(*layers: dict) -> dict:
        mean = sum(layer["mean"] for layer in layers) / len(layers)
        square = sum(layer["var"] + layer["mean"] ** 2 for layer in layers) / len(layers)
        return {"mean": mean, "var": jnp.maximum(square - mean**2, 0.0)}

    return jax.tree.map(pool, *moments, is_leaf=lambda x: set(x) == {"mean", "var"})
