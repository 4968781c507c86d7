"""The training and evaluation steps: pure functions of (state, batch), made once.

Losses are means over the global batch; under `jit` with the batch split over `data`, XLA inserts the
all-reduces. Nothing here knows how many devices there are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnn import tree
from cnn.shapes import Batch
from cnn.state import TrainState
from cnn.tasks.base import Apply, mean_losses, weighted

Metrics = dict[str, tuple[jax.Array, jax.Array]]


def make_train_step(
    model: Any,
    task: Any,
    tx: Any,
    schedule: Callable[[Any], Any],
    *,
    seed: int,
    accumulate_steps: int = 1,
    ema_decay: float = 0.0,
    freeze: str = "",
    unroll: bool = False,
    shards: Callable[..., Callable[..., tuple]] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The update as a pure function `(state, batch) -> (state, aux)`.

    `aux` has `loss`, `grad_norm`, `lr` and, where the loss has several terms, `loss/TERM` for each.

    Args:
      tx: the optimizer, an `optax.GradientTransformation`.
      accumulate_steps: micro-batches per update. The loss and its gradient are those of the whole batch, each term's
        sum over its count; BatchNorm sees one micro-batch at a time, and its running statistics move once for each.
      ema_decay: of the averages in `state.ema`, with the warm-up min(decay, (1 + t) / (10 + t)).
      freeze: regex over parameter paths that get no gradient; below the first one that does, there is no
        backward pass. The optimizer must leave them alone too.
      unroll: lay the micro-batches out one after the other instead of in a loop; XLA:CPU runs the
        gradients of convolutions in a loop body many times slower.
      shards: makes the loss and gradients of a batch of those of its parts (`cnn.invariant.in_shards`).
    """

    import optax  # by training alone: predicting starts faster without

    def terms_of(params: Any, stats: Any, batch: Batch, rng: jax.Array) -> tuple[Metrics, Any]:
        out, changed = model.apply(
            {"params": params, "batch_stats": stats},
            task.inputs(batch),
            train=True,
            rngs={"dropout": rng},
            mutable=["batch_stats"],
        )
        return task.losses(out, batch), changed.get("batch_stats", stats)

    def counts_of(params: Any, stats: Any, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        # Most counts need the batch alone; XLA then drops the network, which nothing else reads here.
        terms, _ = terms_of(params, stats, batch, rng)
        return {name: count for name, (_, count) in terms.items()}

    def loss_and_grads(params: Any, stats: Any, batch: Batch, rng: jax.Array, counts: Any = None) -> tuple:
        def loss_of(params: Any) -> tuple:
            if freeze:
                frozen = tree.matching(params, freeze, "optim.freeze")
                params = jax.tree.map(
                    lambda p, stays: jax.lax.stop_gradient(p) if stays else p, params, frozen
                )
            terms, changed = terms_of(params, stats, batch, rng)
            of = {name: count for name, (_, count) in terms.items()} if counts is None else counts
            means = mean_losses(terms, jax.lax.stop_gradient(of))
            return weighted(task.loss_weights, means), (means, changed)

        (loss, (means, changed)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return loss, means, grads, changed

    whole = shards(counts_of, loss_and_grads) if shards else loss_and_grads

    def accumulated(state: TrainState, batch: Batch, rng: jax.Array) -> tuple:
        # Every k-th row: each device splits the rows that it holds, and nothing moves between devices.
        micro = jax.tree.map(
            lambda x: x.reshape(-1, accumulate_steps, *x.shape[1:]).swapaxes(0, 1), batch
        )
        numbered = (jnp.arange(accumulate_steps), micro)
        steps = accumulate_steps if unroll else 1

        def count(total: Any, one: tuple) -> tuple:
            index, batch = one
            found = counts_of(state.params, state.batch_stats, batch, jax.random.fold_in(rng, index))
            return jax.tree.map(jnp.add, total, found), None

        # Sums of all micro-batches over the counts of all: means per token or positive as of the whole batch.
        first = jax.tree.map(lambda x: x[0], micro)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(counts_of, state.params, state.batch_stats, first, rng),
        )
        counts, _ = jax.lax.scan(count, zeros, numbered, unroll=steps)

        def body(carry: tuple, one: tuple) -> tuple:
            (index, batch), (loss, means, grads, stats) = one, carry
            params = state.params
            if unroll:
                # Ties each micro-batch to the one before, else all of them are in memory at once. Not
                # `optimization_barrier`: XLA:CPU drops it before it schedules. 0 x inf is NaN, but a
                # gradient that is not finite spoils the step anyway.
                params = jax.tree.map(lambda p, g: p + 0 * g, params, grads)
            *new, stats = loss_and_grads(params, stats, batch, jax.random.fold_in(rng, index), counts)
            return (*jax.tree.map(jnp.add, (loss, means, grads), tuple(new)), stats), None

        means = {name: jnp.zeros(()) for name in counts}
        zero = (jnp.zeros(()), means, jax.tree.map(jnp.zeros_like, state.params), state.batch_stats)
        return jax.lax.scan(body, zero, numbered, unroll=steps)[0]

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        augment_rng, model_rng = jax.random.split(rng)
        batch = task.augment(batch, augment_rng)
        if accumulate_steps > 1:
            loss, means, grads, stats = accumulated(state, batch, model_rng)
        else:
            loss, means, grads, stats = whole(state.params, state.batch_stats, batch, model_rng)
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
        if len(means) > 1:
            aux |= {f"loss/{name}": value for name, value in means.items()}
        return state.replace(bad_step=bad_step), aux

    return train_step


def applier(model: Any, variables: Any) -> Apply:
    """The network with its variables bound; see `cnn.tasks.base.Apply`."""

    def apply(*arguments: Any, method: Any = None, **keywords: Any) -> Any:
        if method is None:
            keywords.setdefault("train", False)
        return model.apply(variables, *arguments, method=method, **keywords)

    return apply


def make_eval_step(model: Any, task: Any) -> Callable[[Any, Batch], tuple[Metrics, Metrics, dict[str, jax.Array]]]:
    """`(variables, batch) -> (losses, metrics, predictions)`: sums over the valid rows, and per-row outputs."""

    def eval_step(variables: Any, batch: Batch) -> tuple[Metrics, Metrics, dict[str, jax.Array]]:
        apply = applier(model, variables)
        out = apply(task.inputs(batch))
        return task.losses(out, batch), task.metrics(out, batch), task.predictions(out, batch, apply)

    return eval_step


def make_softmax_step(model: Any, task: Any) -> Callable[[Any, Batch], jax.Array]:
    """`(variables, batch) -> probabilities` of the classes, which is what tiles are blended of."""

    def softmax_step(variables: Any, batch: Batch) -> jax.Array:
        logits = model.apply(variables, task.inputs(batch), train=False)["logits"]
        return jax.nn.softmax(logits.astype(jnp.float32))

    return softmax_step


def make_predict_step(model: Any, task: Any) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """`(variables, batch) -> predictions`, for inputs without targets."""

    def predict_step(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        apply = applier(model, variables)
        return task.predictions(apply(task.inputs(batch)), batch, apply)

    return predict_step
