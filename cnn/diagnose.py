"""Which tensor was the first that is not finite."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnn import tree
from cnn.plan import Plan
from cnn.shapes import Batch
from cnn.state import TrainState
from cnn.tasks.base import mean_losses, weighted

DIAGNOSED = ("batch", "parameter", "statistic", "input", "output", "loss", "gradient")


def make_diagnosis(model: Any, task: Any, seed: int) -> Callable[[TrainState, Batch], tuple]:
    """`(state, batch) -> trees of all-finite flags`, one for each of DIAGNOSED.

    That is the order in which a bad value spreads. The loop calls it once, on the batch that made the
    loss or the gradient non-finite.
    """

    def diagnose(state: TrainState, batch: Batch) -> tuple:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        augment_rng, model_rng = jax.random.split(rng)
        mixed = task.augment(batch, augment_rng)
        inputs = task.inputs(mixed)

        def forward(params: Any) -> tuple:
            out, _ = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                inputs,
                train=True,
                rngs={"dropout": model_rng},
                mutable=["batch_stats"],
            )
            terms = task.losses(out, mixed)
            loss = mean_losses(terms, {name: count for name, (_, count) in terms.items()})
            return weighted(task.loss_weights, loss), (out, loss)

        (_, (out, loss)), grads = jax.value_and_grad(forward, has_aux=True)(state.params)
        floats = {k: v for k, v in batch.items() if jnp.issubdtype(v.dtype, jnp.floating)}
        trees = (floats, state.params, state.batch_stats, inputs, out, loss, grads)
        return jax.tree.map(lambda x: jnp.isfinite(x).all(), trees)

    return jax.jit(diagnose)


def first_bad(flags: tuple) -> str | None:
    """The first non-finite tensor of a diagnosis, such as 'gradient head/kernel'; None if there is none."""
    for kind, flagged in zip(DIAGNOSED, flags, strict=True):
        for name, finite in tree.flatten(flagged).items():
            if not finite:
                return f"{kind} {name}".strip()
    return None


def diagnose(plan: Plan, state: TrainState) -> str:
    """Names what went wrong in the batch that `state` stands before."""
    built = plan.built
    batch = plan.place(plan.batches[int(state.step)])
    flags = make_diagnosis(built.model, built.task, plan.config.seed)(state, batch)
    return first_bad(jax.device_get(flags)) or "the norm of the gradients (each of them is finite)"
