"""Sequence labelling: one class for every step of a series."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.scoring import sums as pairs
from cnn.scoring.scorer import Rows, Scorer
from cnn.shapes import Batch, Outputs
from cnn.tasks.base import Apply, Examples, Pair, Task, per_example, predicted_class
from cnn.tasks.losses import smooth
from cnn.tasks.sequence_labelling import baselines, plots


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceLabelling(Task):
    """A batch holds `series` [b, t, c] and `labels` int32 [b, t]; the model predicts logits [b, t, k].

    Attributes:
      label_smoothing: in [0, 1).
    """

    TARGET: ClassVar[str] = "labels"
    NEEDS: ClassVar[str] = "one class per step"

    label_smoothing: float = 0.0

    def check(self) -> None:
        """See the base class."""
        if not self.info.class_names:
            raise UserError(f"data set '{self.info.name}' names no classes")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"task.label_smoothing is {self.label_smoothing}; it must be in [0, 1)")

    # On the device

    def _logits(self, out: Outputs, batch: Batch) -> Float[Array, "b t k"]:
        logits = out["logits"].astype(jnp.float32)
        if logits.shape[:-1] != batch["labels"].shape:
            raise UserError(
                f"the model predicts {logits.shape[1:]} per example, {batch['labels'].shape[1]} steps need a class "
                "each; choose one with an output per step (tcn: set model.per_step=True)"
            )
        return logits

    def losses(self, out: Outputs, batch: Batch) -> dict[str, Pair]:
        """Cross entropy in nats, averaged over the steps of each series."""
        logits = self._logits(out, batch)
        targets = smooth(jax.nn.one_hot(batch["labels"], self.num_outputs), self.label_smoothing)
        value = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1).mean(axis=-1)
        return {"cross_entropy": per_example(value, batch)}

    def metrics(self, out: Outputs, batch: Batch) -> dict[str, Pair]:
        """accuracy (share of correct steps), exact_accuracy (share of series with every step correct); counts."""
        logits, labels, valid = self._logits(out, batch), batch["labels"], batch["valid"]
        right = predicted_class(logits) == labels
        one_hot = jax.nn.one_hot(labels, self.num_outputs) * valid.reshape(-1, 1, 1)
        hits = jnp.sum(one_hot * right[..., None], axis=(0, 1))
        return {
            "accuracy": per_example(right.astype(jnp.float32).mean(axis=-1), batch),
            "exact_accuracy": per_example(right.all(axis=-1), batch),
            "class_hits": (hits, jnp.sum(one_hot, axis=(0, 1))),
        }

    def predictions(self, out: Outputs, batch: Batch, apply: Apply) -> dict[str, Array]:
        """`labels` int32 [b, t], the most probable class of every step."""
        return {"labels": jnp.argmax(out["logits"], axis=-1).astype(jnp.int32)}

    # On the host

    def scorer(self, full: bool = True) -> Scorer:
        """See `LabellingScorer` and, in full, `ReportScorer`."""
        return ReportScorer() if full else LabellingScorer()

    def describe(self, row: Mapping[str, Any], frame: Any = None) -> dict[str, Any]:
        """{'labels': [a class name per step]}."""
        return {"labels": [self.info.class_names[label] for label in np.asarray(row["labels"])]}

    def baselines(self, train: Examples, test: Examples, seed: int) -> dict[str, dict[str, Any]]:
        """See `baselines.frequency_by_step`."""
        return baselines.frequency_by_step(train["labels"], test["labels"], self.num_outputs)

    def plot(self, predictions: Mapping[str, Any], examples: Examples, directory: str) -> list[str]:
        """Accuracy along the series, and one of them."""
        labels = np.asarray(predictions["labels"]), np.asarray(examples["labels"])
        return plots.draw(*labels, self.info.class_names, directory)


class LabellingScorer(Scorer):
    """accuracy, exact_accuracy; balanced_accuracy over the steps of every class that occurs, per_class_recall."""

    names = ("accuracy", "exact_accuracy", "balanced_accuracy")
    proportions = ("exact_accuracy",)  # the steps of a series are not independent

    def result(self) -> dict[str, Any]:
        """See the class."""
        found: dict[str, Any] = pairs.means(self.sums)
        recall = np.asarray(pairs.mean(self.sums["class_hits"]))
        seen = ~np.isnan(recall)
        found["balanced_accuracy"] = float(recall[seen].mean()) if seen.any() else float("nan")
        found["per_class_recall"] = [float(value) if ok else None for value, ok in zip(recall, seen, strict=True)]
        return found


class ReportScorer(LabellingScorer):
    """Also accuracy_by_step: [t], the share of correct predictions at every step."""

    predictions, batch = ("labels",), ("labels",)

    def __init__(self) -> None:
        super().__init__()
        self._right: Any = 0
        self._count = 0

    def add(self, sums: Mapping[str, tuple[Any, Any]], predictions: Rows, batch: Rows) -> None:
        """Counts the correct predictions at every step."""
        super().add(sums, predictions, batch)
        self._right = self._right + (predictions["labels"] == batch["labels"]).sum(axis=0)
        self._count += len(batch["labels"])

    def result(self) -> dict[str, Any]:
        """See the class."""
        return super().result() | {"accuracy_by_step": (self._right / self._count).round(4).tolist()}
