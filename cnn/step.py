"""The training and evaluation steps: pure functions of (state, batch), made once.

Losses are means over the global batch; under `jit` with the batch split over `data`, XLA inserts the
all-reduces. Nothing here knows how many devices there are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn import tree
from cnn.shapes import Batch
from cnn.state import TrainState

Metrics = dict[str, tuple[jax.Array, jax.Array]]


def make_train_step(
    model: Any,
    task: Any,
    tx: optax.GradientTransformation,
    schedule: Callable[[Any], Any],
    *,
    seed: int,
    accumulate_steps: int = 1,
    ema_decay: float = 0.0,
    freeze: str = "",
    unroll: bool = False,
    in_shards: Callable[[Callable[..., tuple]], Callable[..., tuple]] = lambda loss_and_grads: loss_and_grads,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The update as a pure function `(state, batch) -> (state, aux)`; `aux` has `loss`, `grad_norm`, `lr`.

    Args:
      accumulate_steps: micro-batches per update. Gradients are averaged over them; BatchNorm sees one
        micro-batch at a time, and its running statistics move once for each.
      ema_decay: of the averages in `state.ema`, with the warm-up min(decay, (1 + t) / (10 + t)).
      freeze: regex over parameter paths that get no gradient; below the first one that does, there is no
        backward pass. The optimizer must leave them alone too.
      unroll: lay the micro-batches out one after the other instead of in a loop; XLA:CPU runs the
        gradients of convolutions in a loop body many times slower.
      in_shards: makes the loss and gradients of a batch of those of its parts (cnn/invariant.py).
    """

    def loss_and_grads(params: Any, stats: Any, batch: Batch, rng: jax.Array) -> tuple:
        def loss_of(params: Any) -> tuple:
            if freeze:
                frozen = tree.matching(params, freeze, "optim.freeze")
                params = jax.tree.map(
                    lambda p, stays: jax.lax.stop_gradient(p) if stays else p, params, frozen
                )
            out, changed = model.apply(
                {"params": params, "batch_stats": stats},
                task.inputs(batch),
                train=True,
                rngs={"dropout": rng},
                mutable=["batch_stats"],
            )
            return task.loss(out, batch).mean(), changed.get("batch_stats", stats)

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return loss, stats, grads

    loss_and_grads = in_shards(loss_and_grads)

    def accumulated(state: TrainState, batch: Batch, rng: jax.Array) -> tuple:
        # Every k-th row: each device splits the rows that it holds, and nothing moves between devices.
        micro = jax.tree.map(
            lambda x: x.reshape(-1, accumulate_steps, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def body(carry: tuple, one: tuple) -> tuple:
            (index, batch), (loss, stats, grads) = one, carry
            params = state.params
            if unroll:
                # Ties each micro-batch to the one before, else all of them are in memory at once. Not
                # `optimization_barrier`: XLA:CPU drops it before it schedules. 0 x inf is NaN, but a
                # gradient that is not finite spoils the step anyway.
                params = jax.tree.map(lambda p, g: p + 0 * g, params, grads)
            new_loss, stats, new_grads = loss_and_grads(
                params, stats, batch, jax.random.fold_in(rng, index)
            )
            return (loss + new_loss, stats, jax.tree.map(jnp.add, grads, new_grads)), None

        zero = (jnp.zeros(()), state.batch_stats, jax.tree.map(jnp.zeros_like, state.params))
        (loss, stats, grads), _ = jax.lax.scan(
            body,
            zero,
            (jnp.arange(accumulate_steps), micro),
            unroll=accumulate_steps if unroll else 1,
        )
        return loss / accumulate_steps, stats, jax.tree.map(lambda g: g / accumulate_steps, grads)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        augment_rng, model_rng = jax.random.split(rng)
        batch = task.augment(batch, augment_rng)
        if accumulate_steps > 1:
            loss, stats, grads = accumulated(state, batch, model_rng)
        else:
            loss, stats, grads = loss_and_grads(state.params, state.batch_stats, batch, model_rng)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay:
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(
                lambda old, new: decay * old + (1 - decay) * new,
                ema,
                {"params": params, "batch_stats": stats},
            )
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updated = state.replace(
            step=state.step + 1, params=params, batch_stats=stats, opt_state=opt_state, ema=ema
        )
        # A select per leaf fuses into the update; it keeps the last good state for the loop to save.
        keep = finite & (state.bad_step < 0)
        state = jax.tree.map(lambda new, old: jnp.where(keep, new, old), updated, state)
        bad_step = jnp.where(keep | (state.bad_step >= 0), state.bad_step, state.step)
        aux = {"loss": loss, "grad_norm": norm, "lr": jnp.asarray(schedule(updated.step - 1))}
        return state.replace(bad_step=bad_step), aux

    return train_step


def make_eval_step(model: Any, task: Any) -> Callable[[Any, Batch], tuple[Metrics, dict]]:
    """`(variables, batch) -> (metrics, predictions)`: sums over the valid rows, and per-row outputs."""

    def eval_step(variables: Any, batch: Batch) -> tuple[Metrics, dict[str, jax.Array]]:
        out = model.apply(variables, task.inputs(batch), train=False)
        return task.metrics(out, batch), task.predictions(out)

    return eval_step


def make_softmax_step(model: Any, task: Any) -> Callable[[Any, Batch], jax.Array]:
    """`(variables, batch) -> probabilities` of the classes, which is what tiles are blended of."""

    def softmax_step(variables: Any, batch: Batch) -> jax.Array:
        logits = model.apply(variables, task.inputs(batch), train=False)["logits"]
        return jax.nn.softmax(logits.astype(jnp.float32))

    return softmax_step


def make_predict_step(model: Any, task: Any) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """`(variables, batch) -> predictions`, for inputs without labels."""

    def predict_step(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        return task.predictions(model.apply(variables, task.inputs(batch), train=False))

    return predict_step
