"""A task's losses and metrics without a network: what the trainer and the evaluator make of given outputs."""

import jax
import jax.numpy as jnp
import numpy as np

from cnn.evaluate import _loss
from cnn.scoring import sums
from cnn.tasks.base import mean_losses, weighted


def unused(*_, **__):
    """Stands for the network where `predictions` must not call it again."""
    raise AssertionError("predictions called the network again")


def total(task, out, batch):
    """The loss of a batch; `valid` everywhere where it does not say."""
    batch = {"valid": jnp.ones(len(out["logits"]), bool), **batch}
    terms = task.losses(out, batch)
    return weighted(task.loss_weights, mean_losses(terms, {name: count for name, (_, count) in terms.items()}))


def each(task, out, batch):
    """The loss of each example, [b]: that of batches of one."""
    rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], (out, batch)) for i in range(len(out["logits"]))]
    return np.array([total(task, *row) for row in rows])


def scored(task, batches, full=False):
    """The metrics of an evaluation over [(out, batch), ...]."""
    scorer, losses = task.scorer(full), {}
    for out, batch in batches:
        found = jax.jit(lambda out, batch: (task.losses(out, batch), task.metrics(out, batch)))(out, batch)
        terms, counted = jax.device_get(found)
        losses, valid = sums.add(losses, terms), np.asarray(batch["valid"])
        predictions = task.predictions(out, batch, unused)
        kept = {key: np.asarray(predictions[key])[valid] for key in scorer.predictions if key in predictions}
        scorer.add(counted, kept, {key: np.asarray(batch[key])[valid] for key in scorer.batch})
    return scorer.result() | _loss(task, losses)
