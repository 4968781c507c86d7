"""Sequence labelling: one class for every step of a series."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cnn.errors import UserError
from cnn.features import DatasetInfo
from cnn.figures import figure
from cnn.scoring import sums as metric_sums
from cnn.shapes import Batch, Outputs, PerExample
from cnn.tasks import inputs
from cnn.tasks.losses import smooth


@dataclasses.dataclass(frozen=True)
class SequenceLabelling:
    """The task; `sequence_labelling` builds it and describes the options.

    A batch holds `series` [b, t, c] and `labels` int32 [b, t]; the model answers with logits [b, t, k].
    """

    info: DatasetInfo
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_smoothing: float

    def __post_init__(self) -> None:
        if self.info.target_key != "labels" or not self.info.class_names:
            raise UserError(f"data set '{self.info.name}' has no class per step; its task is another one")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"task.label_smoothing is {self.label_smoothing}; it must be in [0, 1)")
        inputs.check_normalisation(self.mean, self.std)

    @property
    def num_outputs(self) -> int:
        """Number of classes: the model's `num_classes`."""
        return self.info.num_classes

    def init_batch(self, input_shape: tuple[int, ...] | None = None) -> Batch:
        """See `inputs.one_zero`."""
        return inputs.one_zero(self.info, input_shape)

    def augment(self, batch: Batch, rng: Key[Array, ""]) -> Batch:
        """Nothing is mixed."""
        return batch

    def inputs(self, batch: Batch) -> Float[Array, "b *space c"]:
        """float32, minus `mean`, over `std`."""
        return inputs.normalised(inputs.unit(batch[self.info.input_key]), self.mean, self.std)

    def _logits(self, out: Outputs, batch: Batch) -> Float[Array, "b t k"]:
        logits = out["logits"].astype(jnp.float32)
        if logits.shape[:-1] != batch["labels"].shape:
            raise UserError(
                f"the model answers with {logits.shape[1:]} per example, {batch['labels'].shape[1]} steps need a class "
                "each; choose one that answers at every step (tcn: set model.per_step=True)"
            )
        return logits

    def loss(self, out: Outputs, batch: Batch) -> PerExample:
        """Cross entropy in nats, averaged over the steps."""
        logits = self._logits(out, batch)
        targets = smooth(jax.nn.one_hot(batch["labels"], self.num_outputs), self.label_smoothing)
        return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1).mean(axis=-1)

    def metrics(self, out: Outputs, batch: Batch) -> dict[str, tuple[Array, Array]]:
        """loss; accuracy (share of right steps), exact (share of series right at every step); counts."""
        logits, labels, valid = self._logits(out, batch), batch["labels"], batch["valid"]
        right = jnp.argmax(logits, axis=-1) == labels
        count = jnp.sum(valid.astype(jnp.float32))
        found = {
            "loss": self.loss(out, batch),
            "accuracy": right.astype(jnp.float32).mean(axis=-1),
            "exact_accuracy": right.all(axis=-1).astype(jnp.float32),
        }
        result = {name: (jnp.sum(jnp.where(valid, value, 0)), count) for name, value in found.items()}
        one_hot = jax.nn.one_hot(labels, self.num_outputs) * valid.reshape(-1, 1, 1)
        hits = jnp.sum(one_hot * right[..., None], axis=(0, 1))
        return result | {"class_hits": (hits, jnp.sum(one_hot, axis=(0, 1)))}

    def predictions(self, out: Outputs) -> dict[str, Array]:
        """`labels` int32 [b, t], the most probable class of every step."""
        return {"labels": jnp.argmax(out["logits"], axis=-1).astype(jnp.int32)}

    # On the host

    def finalize(self, sums: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        """Means; `balanced_accuracy` over the steps of every class that occurs, and `per_class_recall`."""
        result: dict[str, Any] = metric_sums.means(sums)
        recall = np.asarray(metric_sums.mean(sums["class_hits"]))
        seen = ~np.isnan(recall)
        result["balanced_accuracy"] = float(recall[seen].mean()) if seen.any() else float("nan")
        result["per_class_recall"] = [float(value) if ok else None for value, ok in zip(recall, seen, strict=True)]
        return result

    def report(self, predictions: Mapping[str, Any], targets: Any) -> dict[str, Any]:
        """`accuracy_by_step`: the share of right answers at every step."""
        right = np.asarray(predictions["labels"]) == np.asarray(targets)
        return {"accuracy_by_step": right.mean(axis=0).round(4).tolist()}

    def describe(self, prediction: Mapping[str, Any], frame: Any = None) -> dict[str, Any]:
        """{'labels': [a class name per step]}."""
        return {"labels": [self.info.class_names[label] for label in np.asarray(prediction["labels"])]}

    def baselines_read(self, input_shape: tuple[int, ...]) -> bool:
        """They need the labels alone."""
        return False

    def baselines(self, train: Mapping[str, Any], test: Mapping[str, Any], seed: int) -> dict[str, dict[str, Any]]:
        """'frequency_by_step': each step's training frequencies of the classes, a hundredth added to each count.

        On copy memory that is saying 0 while nothing is asked, and guessing afterwards.
        """
        labels, want = np.asarray(train["labels"]), np.asarray(test["labels"])
        counts = np.stack([(labels == k).sum(axis=0) for k in range(self.num_outputs)], axis=1) + 0.01
        probs = counts / counts.sum(axis=1, keepdims=True)  # [t, k]
        steps = np.arange(want.shape[1])
        right = probs.argmax(axis=1)[None] == want
        recalls = [right[want == k].mean() for k in np.unique(want)]
        return {
            "frequency_by_step": {
                "loss": float(-np.log(probs[steps[None], want]).mean()),
                "accuracy": float(right.mean()),
                "exact_accuracy": float(right.all(axis=1).mean()),
                "balanced_accuracy": float(np.mean(recalls)),
                "train_examples": len(labels),
            }
        }

    def draw(self, predictions: Mapping[str, Any], examples: Mapping[str, Any], directory: str) -> list[str]:
        """`labels.png`: accuracy along the series, and one of them with its true and predicted classes."""
        said, true = np.asarray(predictions["labels"]), np.asarray(examples["labels"])
        made = figure(9.0, 5.0)
        top, bottom = made.subplots(2, 1, sharex=True)
        top.plot((said == true).mean(axis=0), lw=1)
        top.set(ylabel="share of right answers", ylim=(-0.05, 1.05), title=f"{len(true):,} series")
        bottom.step(range(true.shape[1]), true[0], where="mid", color="#8c8c8c", lw=3, label="true")
        bottom.step(range(true.shape[1]), said[0], where="mid", color="#c0504d", lw=1, label="predicted")
        bottom.set(xlabel="step", ylabel="class", title="the first of them")
        bottom.set_yticks(range(self.num_outputs), self.info.class_names)
        bottom.legend(fontsize=8)
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, "labels.png")
        made.savefig(path, dpi=110)
        return [path]


def sequence_labelling(
    info: DatasetInfo, mean: tuple[float, ...] = (), std: tuple[float, ...] = (), label_smoothing: float = 0.0
) -> SequenceLabelling:
    """Builds the task; `label_smoothing` in [0, 1) is the option of `config.task`.

    Raises:
      UserError: a value out of range, or a data set without a class per step.
    """
    return SequenceLabelling(info, tuple(mean), tuple(std), label_smoothing)
