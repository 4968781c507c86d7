"""Metrics of classification: from sums while training, from every row for the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnn.scoring import classification as scores
from cnn.scoring import sums as pairs
from cnn.scoring.scorer import Kept, Rows, Scorer

CONFUSION_CLASSES = 200  # above, a k x k matrix per batch costs more than it shows


class ClassificationScorer(Scorer):
    """accuracy, top5 (above 5 classes), balanced_accuracy, macro_f1, per_class_recall; up to 200 classes confusion.

    Rows of the confusion matrix are true classes. Classes without examples count in none of the averages (their recall
    is None); a class that is never predicted has F1 0.
    """

    proportions = ("accuracy", "top5")

    def __init__(self, class_names: Sequence[str]):
        super().__init__()
        self.class_names = class_names
        top5 = ("top5",) if len(class_names) > 5 else ()
        self.names = ("accuracy", *top5, "balanced_accuracy", "macro_f1")

    def result(self) -> dict[str, Any]:
        """See the class."""
        found: dict[str, Any] = pairs.means(self.sums)
        hits, actual, predicted = np.asarray(self.sums["class_counts"][0], np.float64)
        if "confusion" in self.sums:
            found["confusion"] = np.asarray(self.sums["confusion"][0], np.float64).astype(int).tolist()
        recall, f1 = pairs.mean((hits, actual)), pairs.mean((2 * hits, actual + predicted))
        seen = actual > 0
        found["balanced_accuracy"] = float(recall[seen].mean()) if seen.any() else float("nan")
        found["macro_f1"] = float(f1[seen].mean()) if seen.any() else float("nan")
        found["per_class_recall"] = [None if np.isnan(value) else float(value) for value in recall]
        return found


class ReportScorer(ClassificationScorer):
    """Also ece, auroc, average_precision (one versus rest), aurc, risk_at_80 (share of wrong predictions where the
    least confident fifth is refused), see `cnn.scoring.classification`; up to 200 classes `per_class`: [{class,
    precision, recall, f1, support}].
    """

    predictions, batch = ("probs",), ("label",)

    def __init__(self, class_names: Sequence[str]):
        super().__init__(class_names)
        self.names = (*self.names, "ece", "auroc", "average_precision", "aurc", "risk_at_80")
        self._kept = Kept()  # ranking needs all of them

    def add(self, sums: Mapping[str, tuple[Any, Any]], predictions: Rows, batch: Rows) -> None:
        """Keeps the probabilities."""
        super().add(sums, predictions, batch)
        self._kept.add(probs=predictions["probs"], label=batch["label"])

    def result(self) -> dict[str, Any]:
        """See the class."""
        found, rows = super().result(), self._kept.whole()
        probs, label = rows["probs"], rows["label"]
        area, precision = scores.one_versus_rest(probs, label)
        refusing = scores.risk_coverage(probs, label)
        found |= {
            "ece": scores.reliability(probs, label).ece,
            "auroc": area,
            "average_precision": precision,
            "aurc": refusing.area,
            "risk_at_80": refusing.at(0.8),
        }
        if len(self.class_names) <= CONFUSION_CLASSES:
            confusion = scores.confusion_matrix(probs.argmax(axis=1), label, len(self.class_names))
            found["per_class"] = scores.per_class(confusion, self.class_names)
        return found
