"""Classification: one class per picture, series or volume."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cnn.errors import UserError, unknown
from cnn.features import DatasetInfo
from cnn.scoring import classification as scores
from cnn.scoring import sums as metric_sums
from cnn.shapes import Batch, Outputs, PerExample
from cnn.tasks import inputs, losses
from cnn.tasks.classification import baselines, mixing, plots

LOSSES = ("softmax", "bce", "focal")
CONFUSION_CLASSES = 200  # above, a k x k matrix per batch costs more than it shows


@dataclasses.dataclass(frozen=True)
class Classification:
    """The task; `classification` builds it and describes the options.

    A batch holds `image` (uint8 in [0, 255], or float already in [0, 1]) or `series`, and `label` int32 [b].
    """

    info: DatasetInfo
    mean: tuple[float, ...]
    std: tuple[float, ...]
    objective: str
    label_smoothing: float
    focal_gamma: float
    bce_threshold: float
    mixup_alpha: float
    cutmix_alpha: float
    aux_weight: float

    def __post_init__(self) -> None:
        if self.objective not in LOSSES:
            raise unknown("loss", self.objective, LOSSES)
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"task.label_smoothing is {self.label_smoothing}; it must be in [0, 1)")
        for name in ("focal_gamma", "bce_threshold", "mixup_alpha", "cutmix_alpha", "aux_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"task.{name} is {getattr(self, name)}; it must not be negative")
        inputs.check_normalisation(self.mean, self.std)
        if not self.info.class_names or self.info.target_key != "label":
            raise UserError(f"data set '{self.info.name}' has no class per example; its task is another one")

    @property
    def num_outputs(self) -> int:
        """Number of classes: the model's `num_classes`."""
        return self.info.num_classes

    def init_batch(self, input_shape: tuple[int, ...] | None = None) -> Batch:
        """A batch of one zero example.

        Args:
          input_shape: of one input as the network sees it; None is that of the data set, with 64 pixels
            for axes that it leaves open.
        """
        return inputs.one_zero(self.info, input_shape)

    # On the device

    def augment(self, batch: Batch, rng: Key[Array, ""]) -> Batch:
        """Mixup, CutMix, or per example one of the two with equal chance.

        The input becomes float32 (images in [0, 1]) and `label_probs` [b, k] holds the mixed labels.
        """
        if not (self.mixup_alpha or self.cutmix_alpha):
            return batch
        x = self._unit(batch)
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

    def inputs(self, batch: Batch) -> Float[Array, "b *space c"]:
        """Images in [0, 1], series as they are; minus `mean`, over `std`. float32.

        Raises:
          UserError: `mean` has another number of channels.
        """
        return inputs.normalised(self._unit(batch), self.mean, self.std)

    def loss(self, out: Outputs, batch: Batch) -> PerExample:
        """The chosen loss against `label_probs` where `augment` made them, else against `label`.

        Auxiliary classifiers (outputs `aux*` [b, k], which some networks give while training) add theirs.
        """
        auxiliary = [logits for name, logits in sorted(out.items()) if name.startswith("aux")]
        total = self._loss(out["logits"], batch)
        for logits in auxiliary:
            total = total + self.aux_weight * self._loss(logits, batch)
        return total

    def _loss(self, logits: Float[Array, "b k"], batch: Batch) -> PerExample:
        logits, targets = logits.astype(jnp.float32), self._targets(batch)
        if self.objective == "bce":
            if self.bce_threshold:
                targets = (targets > self.bce_threshold).astype(jnp.float32)
            return losses.binary_cross_entropy(logits, losses.smooth(targets, self.label_smoothing))
        targets = losses.smooth(targets, self.label_smoothing)
        if self.objective == "focal":
            return losses.focal(logits, targets, self.focal_gamma)
        return losses.softmax_cross_entropy(logits, targets)

    def metrics(self, out: Outputs, batch: Batch) -> dict[str, tuple[Array, Array]]:
        """accuracy, top5 (above 5 classes), loss; and sums that `finalize` turns into the rest.

        `loss` is the training loss, smoothing included. After mixing, accuracy is against the own label.
        """
        logits, label, valid = out["logits"].astype(jnp.float32), batch["label"], batch["valid"]
        count = jnp.sum(valid.astype(jnp.float32))

        def masked(values: Array) -> tuple[Array, Array]:
            # `where`, not a product: a padded row must not turn 0 * NaN into NaN.
            return jnp.sum(jnp.where(valid, values.astype(jnp.float32), 0)), count

        k = self.num_outputs
        predicted = jnp.argmax(logits, axis=-1)
        result = {"accuracy": masked(predicted == label), "loss": masked(self.loss(out, batch))}
        if k > 5:
            own = jnp.take_along_axis(logits, label[:, None], axis=-1)
            # Every comparison with NaN is false, so a NaN row must be refused by itself.
            above = jnp.sum((logits > own).astype(jnp.int32), axis=-1)
            result["top5"] = masked((above < 5) & ~jnp.isnan(own[:, 0]))
        actual = jax.nn.one_hot(label, k) * valid[:, None]
        guessed = jax.nn.one_hot(predicted, k) * valid[:, None]
        if k <= CONFUSION_CLASSES:
            result["confusion"] = jnp.einsum("bi,bj->ij", actual, guessed), count
        else:
            counts = [(actual * guessed).sum(0), actual.sum(0), guessed.sum(0)]
            result["class_counts"] = jnp.stack(counts), count
        return result

    def predictions(self, out: Outputs) -> dict[str, Array]:
        """`probs` [b, k]: softmax, or with loss 'bce' each class's own sigmoid."""
        logits = out["logits"].astype(jnp.float32)
        return {
            "probs": jax.nn.sigmoid(logits) if self.objective == "bce" else jax.nn.softmax(logits)
        }

    def _unit(self, batch: Batch) -> Float[Array, "b *space c"]:
        return inputs.unit(batch[self.info.input_key])

    def _targets(self, batch: Batch) -> Float[Array, "b k"]:
        if "label_probs" in batch:
            return batch["label_probs"]
        return jax.nn.one_hot(batch["label"], self.num_outputs)

    # On the host

    def finalize(self, sums: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        """Means; and of the counts balanced_accuracy, macro_f1, per_class_recall and confusion.

        Rows of the confusion matrix are true classes. Classes without test examples count in none of the
        averages (their recall is None); a class never predicted has F1 0.
        """
        result: dict[str, Any] = metric_sums.means(sums)
        if "confusion" in sums:
            confusion = np.asarray(sums["confusion"][0], np.float64)
            hits, actual, guessed = np.diag(confusion), confusion.sum(1), confusion.sum(0)
            result["confusion"] = confusion.astype(int).tolist()
        elif "class_counts" in sums:
            hits, actual, guessed = np.asarray(sums["class_counts"][0], np.float64)
        else:
            return result
        recall = metric_sums.mean((hits, actual))
        seen = actual > 0
        f1 = metric_sums.mean((2 * hits, actual + guessed))
        result["balanced_accuracy"] = float(recall[seen].mean()) if seen.any() else float("nan")
        result["macro_f1"] = float(f1[seen].mean()) if seen.any() else float("nan")
        result["per_class_recall"] = [None if np.isnan(value) else float(value) for value in recall]
        return result

    def report(self, predictions: Mapping[str, Any], targets: Any) -> dict[str, Any]:
        """`ece`, `auroc`, `average_precision` (one versus rest), `aurc` and `risk_at_80` (wrong answers where the
        least confident fifth is refused), see `cnn.scoring.classification`; up to 200 classes `per_class`: [{class,
        precision, recall, f1, support}]."""
        probs, label = np.asarray(predictions["probs"]), np.asarray(targets)
        area, precision = scores.one_versus_rest(probs, label)
        refusing = scores.risk_coverage(probs, label)
        result: dict[str, Any] = {
            "ece": scores.reliability(probs, label).ece,
            "auroc": area,
            "average_precision": precision,
            "aurc": refusing.area,
            "risk_at_80": refusing.at(0.8),
        }
        if self.num_outputs <= CONFUSION_CLASSES:
            confusion = scores.confusion_matrix(probs.argmax(axis=1), label, self.num_outputs)
            result["per_class"] = scores.per_class(confusion, self.info.class_names)
        return result

    def describe(self, prediction: Mapping[str, Any], frame: Any = None, top: int = 5) -> dict[str, Any]:
        """The `top` most probable classes of one row: {'class', 'probability', 'top': [...]}."""
        probs = np.asarray(prediction["probs"], np.float64)
        best = np.argsort(-probs, kind="stable")[:top]
        ranked = [{"class": self.info.class_names[i], "probability": float(probs[i])} for i in best]
        return {**ranked[0], "top": ranked}

    def baselines_read(self, input_shape: tuple[int, ...]) -> bool:
        """Whether `baselines` looks at inputs of this shape; larger ones leave it the labels alone."""
        return math.prod(input_shape) <= baselines.MAX_FEATURES

    def baselines(
        self, train: Mapping[str, Any], test: Mapping[str, Any], seed: int
    ) -> dict[str, dict[str, Any]]:
        """See `baselines.classify`. Stacked raw examples of both splits, or their labels only."""
        key = self.info.input_key
        return baselines.classify(train.get(key), train["label"], test.get(key), test["label"], seed)

    def draw(
        self, predictions: Mapping[str, Any], examples: Mapping[str, Any], directory: str
    ) -> list[str]:
        """Confusion matrix, bars per class, most confident mistakes; see `cnn.tasks.classification.plots`."""
        key, names = self.info.input_key, self.info.class_names
        return plots.draw(
            predictions["probs"], examples["label"], examples[key], names, directory
        )


def classification(
    info: DatasetInfo,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    loss: str = "softmax",
    label_smoothing: float = 0.0,
    focal_gamma: float = 2.0,
    bce_threshold: float = 0.0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    aux_weight: float = 0.3,
) -> Classification:
    """Builds the task; everything after `std` is an option of `config.task`.

    Args:
      info: the data set: input key, shape and class names.
      mean, std: per channel, of images in [0, 1]; empty leaves the scale as it is.
      loss: 'softmax', 'bce' (a sigmoid per class) or 'focal'.
      label_smoothing: in [0, 1).
      focal_gamma: of 'focal'.
      bce_threshold: of 'bce': classes whose mixed share is above it become full targets; 0 leaves the shares.
      mixup_alpha, cutmix_alpha: 0 is off; with both, each example takes one of them.
      aux_weight: of the loss of each auxiliary classifier (Szegedy et al. 2014, arXiv 1409.4842, section 5).

    Raises:
      UserError: a value out of range, or a data set without classes.
    """
    return Classification(
        info=info,
        mean=tuple(mean),
        std=tuple(std),
        objective=loss,
        label_smoothing=label_smoothing,
        focal_gamma=focal_gamma,
        bce_threshold=bce_threshold,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        aux_weight=aux_weight,
    )
