"""Classification: one class per picture, series or volume."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cnn.errors import UserError, unknown
from cnn.scoring.scorer import Scorer
from cnn.shapes import Batch, Outputs, PerExample
from cnn.tasks import inputs, losses
from cnn.tasks.base import Apply, Examples, Pair, Task, per_example, predicted_class
from cnn.tasks.classification import baselines, mixing, plots
from cnn.tasks.classification.scorer import CONFUSION_CLASSES, ClassificationScorer, ReportScorer

LOSSES = ("softmax", "bce", "focal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """A batch holds `image` (uint8 in [0, 255], or float already in [0, 1]), `series` or `volume`, and `label` [b].

    Attributes:
      loss: 'softmax', 'bce' (a sigmoid per class) or 'focal'.
      label_smoothing: in [0, 1).
      focal_gamma: of 'focal'.
      bce_threshold: of 'bce': classes whose mixed share is above it become full targets; 0 leaves the shares.
      mixup_alpha, cutmix_alpha: 0 is off; with both, each example takes one of them.
      aux_weight: of the loss of each auxiliary classifier (Szegedy et al. 2014, arXiv 1409.4842, section 5).
    """

    TARGET: ClassVar[str] = "label"
    NEEDS: ClassVar[str] = "one class per example"

    loss: str = "softmax"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    bce_threshold: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    aux_weight: float = 0.3

    def check(self) -> None:
        """See the base class."""
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"task.label_smoothing is {self.label_smoothing}; it must be in [0, 1)")
        for name in ("focal_gamma", "bce_threshold", "mixup_alpha", "cutmix_alpha", "aux_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"task.{name} is {getattr(self, name)}; it must not be negative")
        if not self.info.class_names:
            raise UserError(f"data set '{self.info.name}' names no classes")

    # On the device

    def augment(self, batch: Batch, rng: Key[Array, ""]) -> Batch:
        """Mixup, CutMix, or per example one of the two with equal chance.

        The input becomes float32 (images in [0, 1]) and `label_probs` [b, k] holds the mixed labels.
        """
        if not (self.mixup_alpha or self.cutmix_alpha):
            return batch
        x = inputs.unit(batch[self.info.input_key])
        mixup_rng, cutmix_rng, choice_rng = jax.random.split(rng, 3)
        if self.mixup_alpha:
            mixed, share = mixing.mixup(x, mixup_rng, self.mixup_alpha)
        if self.cutmix_alpha:
            cut, cut_share = mixing.cutmix(x, cutmix_rng, self.cutmix_alpha)
            if self.mixup_alpha:
                choose = jax.random.bernoulli(choice_rng, 0.5, share.shape)
                mixed = jnp.where(choose.reshape(-1, *(1,) * (x.ndim - 1)), mixed, cut)
                share = jnp.where(choose, share, cut_share)
            else:
                mixed, share = cut, cut_share
        own = self._targets(batch)
        probs = mixing.blend(own, share, mixing.partner(own))
        return {**batch, self.info.input_key: mixed, "label_probs": probs}

    def losses(self, out: Outputs, batch: Batch) -> dict[str, Pair]:
        """The chosen loss against `label_probs` where `augment` made them, else against `label`.

        `aux` is the sum over auxiliary classifiers (outputs `aux*` [b, k], which some networks give while training).
        """
        found = {self.loss: per_example(self._loss(out["logits"], batch), batch)}
        auxiliary = [self._loss(logits, batch) for name, logits in sorted(out.items()) if name.startswith("aux")]
        return found | ({"aux": per_example(sum(auxiliary), batch)} if auxiliary else {})

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """`aux_weight` for the auxiliary classifiers."""
        return {"aux": self.aux_weight}

    def _loss(self, logits: Float[Array, "b k"], batch: Batch) -> PerExample:
        logits, targets = logits.astype(jnp.float32), self._targets(batch)
        if self.loss == "bce":
            if self.bce_threshold:
                targets = (targets > self.bce_threshold).astype(jnp.float32)
            return losses.binary_cross_entropy(logits, losses.smooth(targets, self.label_smoothing))
        targets = losses.smooth(targets, self.label_smoothing)
        if self.loss == "focal":
            return losses.focal(logits, targets, self.focal_gamma)
        return losses.softmax_cross_entropy(logits, targets)

    def metrics(self, out: Outputs, batch: Batch) -> dict[str, Pair]:
        """accuracy, top5 (above 5 classes) and counts per class. After mixing, against the example's own label."""
        logits, label, valid = out["logits"].astype(jnp.float32), batch["label"], batch["valid"]
        k = self.num_outputs
        predicted = predicted_class(logits)
        result = {"accuracy": per_example(predicted == label, batch)}
        if k > 5:
            own = jnp.take_along_axis(logits, label[:, None], axis=-1)
            # Every comparison with NaN is false, so a NaN row must be refused by itself.
            above = jnp.sum((logits > own).astype(jnp.int32), axis=-1)
            result["top5"] = per_example((above < 5) & ~jnp.isnan(own[:, 0]), batch)
        count = jnp.sum(valid.astype(jnp.float32))
        actual = jax.nn.one_hot(label, k) * valid[:, None]
        guessed = jax.nn.one_hot(predicted, k) * valid[:, None]
        result["class_counts"] = jnp.stack([(actual * guessed).sum(0), actual.sum(0), guessed.sum(0)]), count
        if k <= CONFUSION_CLASSES:
            result["confusion"] = jnp.einsum("bi,bj->ij", actual, guessed), count
        return result

    def predictions(self, out: Outputs, batch: Batch, apply: Apply) -> dict[str, Array]:
        """`probs` [b, k]: softmax, or with loss 'bce' each class's own sigmoid."""
        logits = out["logits"].astype(jnp.float32)
        return {"probs": jax.nn.sigmoid(logits) if self.loss == "bce" else jax.nn.softmax(logits)}

    def _targets(self, batch: Batch) -> Float[Array, "b k"]:
        if "label_probs" in batch:
            return batch["label_probs"]
        return jax.nn.one_hot(batch["label"], self.num_outputs)

    # On the host

    def scorer(self, full: bool = True) -> Scorer:
        """See `ClassificationScorer` and, in full, `ReportScorer`."""
        return (ReportScorer if full else ClassificationScorer)(self.info.class_names)

    def describe(self, row: Mapping[str, Any], frame: Any = None, top: int = 5) -> dict[str, Any]:
        """The `top` most probable classes: {'class', 'probability', 'top': [...]}."""
        probs = np.asarray(row["probs"], np.float64)
        best = np.argsort(-probs, kind="stable")[:top]
        ranked = [{"class": self.info.class_names[i], "probability": float(probs[i])} for i in best]
        return {**ranked[0], "top": ranked}

    def baselines_read(self, input_shape: tuple[int, ...]) -> bool:
        """Whether `baselines` looks at inputs of this shape; larger ones leave it the labels alone."""
        return math.prod(input_shape) <= baselines.MAX_FEATURES

    def baselines(self, train: Examples, test: Examples, seed: int) -> dict[str, dict[str, Any]]:
        """See `baselines.classify`. Stacked raw examples of both splits, or their labels only."""
        key = self.info.input_key
        return baselines.classify(train.get(key), train["label"], test.get(key), test["label"], seed)

    def plot(self, predictions: Mapping[str, Any], examples: Examples, directory: str) -> list[str]:
        """Confusion matrix, bars per class, most confident mistakes; see `plots`."""
        given = (predictions["probs"], examples["label"], examples[self.info.input_key], self.info.class_names)
        return plots.draw(*given, directory)
