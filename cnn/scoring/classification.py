"""Scores that need every prediction at once: calibration, ranking, refusing, the report per class.

Sums of batches cannot give these, so the host computes them from the kept predictions, in float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cnn.scoring.sums import Values

BINS = 15  # of the confidence, as in Guo et al. 2017


class Reliability(NamedTuple):
    """Confidence against accuracy, in bins of equal width.

    Attributes:
      edges: [bins + 1] from 0 to 1; a bin holds its upper edge.
      confidence, accuracy: [bins] means, NaN in an empty bin.
      count: [bins] examples.
    """

    edges: Float[np.ndarray, " n"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean |accuracy - confidence| of the bins, weighted by their examples."""
        gap = np.where(self.count > 0, np.abs(self.accuracy - self.confidence), 0.0)
        return float(np.sum(gap * self.count) / max(self.count.sum(), 1))


class Calibration:
    """How often a confident prediction is right (Guo et al. 2017, arXiv 1706.04599, section 2), batch by batch.

    The confidence is the largest probability of each row.
    """

    def __init__(self, bins: int = BINS):
        self._edges = np.linspace(0, 1, bins + 1)
        self._confidence, self._right = np.zeros((2, bins))
        self.count = np.zeros(bins, int)

    def add(self, probs: Float[np.ndarray, "n k"], label: Int[np.ndarray, " n"]) -> None:
        """Puts some more rows into their bins."""
        bins = len(self.count)
        confidence = np.max(probs, axis=1).astype(np.float64)
        place = np.clip(np.searchsorted(self._edges, confidence, side="left") - 1, 0, bins - 1)
        self._confidence += np.bincount(place, confidence, bins)
        self._right += np.bincount(place, _right(probs, label), bins)
        self.count += np.bincount(place, minlength=bins)

    def result(self) -> Reliability:
        """The bins so far."""
        with np.errstate(invalid="ignore"):
            return Reliability(self._edges, self._confidence / self.count, self._right / self.count, self.count)


def reliability(probs: Float[np.ndarray, "n k"], label: Int[np.ndarray, " n"], bins: int = BINS) -> Reliability:
    """The `Calibration` of a whole split."""
    found = Calibration(bins)
    found.add(probs, label)
    return found.result()


def _right(probs: Float[np.ndarray, "n k"], label: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether the largest probability is that of the label; never with a NaN, which `argmax` takes for the largest."""
    return (np.argmax(probs, axis=1) == label) & ~np.isnan(probs).any(axis=1)


class RiskCoverage(NamedTuple):
    """Share of wrong answers among the most confident ones, as more and more of them are answered.

    Attributes:
      coverage: [n] share of the examples that are answered: 1/n, 2/n, ... 1.
      risk: [n] share of wrong answers among them.
    """

    coverage: Float[np.ndarray, " n"]
    risk: Float[np.ndarray, " n"]

    @property
    def area(self) -> float:
        """AURC: the mean risk over all coverages (Geifman, Uziel & El-Yaniv 2019, arXiv 1805.08206); less is better.

        A confidence that says nothing gives the error rate, the best order of e errors in n about e^2 / 2 n^2.
        """
        return float(self.risk.mean()) if len(self.risk) else float("nan")

    def at(self, coverage: float) -> float:
        """Risk where at least this share of the examples is answered."""
        place = np.searchsorted(self.coverage, coverage - 1e-9)
        return float(self.risk[min(place, len(self.risk) - 1)]) if len(self.risk) else float("nan")


def risk_coverage(probs: Float[np.ndarray, "n k"], label: Int[np.ndarray, " n"]) -> RiskCoverage:
    """What refusing the least confident answers would bring (El-Yaniv & Wiener 2010, JMLR 11).

    The confidence is the largest probability of a row; a row that is not finite is the least confident. Examples of
    equal confidence count as in the mean over all their orders, so the order of the data never matters.
    """
    confidence = np.max(np.where(np.isfinite(probs), probs, -1.0), axis=1).astype(np.float64)
    wrong = ~_right(probs, label)
    order = np.argsort(-confidence, kind="stable")
    _, group, size = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    errors = np.bincount(group, wrong[order], len(size))
    answered = np.arange(1, len(wrong) + 1)
    before = np.cumsum(errors) - errors  # errors and examples ahead of each run of equal confidences
    ahead = np.cumsum(size) - size
    expected = before[group] + errors[group] * (answered - ahead[group]) / size[group]
    return RiskCoverage(answered / max(len(wrong), 1), expected / answered)


def auroc(score: Values, positive: Values) -> float:
    """Chance that a positive example scores above a negative one, ties counting one half.

    NaN where one of the two is missing.
    """
    score, positive = np.asarray(score, np.float64), np.asarray(positive, bool)
    many, few = int(positive.sum()), int((~positive).sum())
    if not many or not few:
        return float("nan")
    ordered = np.sort(score)  # ties share the mean of their ranks; importing scipy.stats for them takes seconds
    ranks = (np.searchsorted(ordered, score) + np.searchsorted(ordered, score, side="right") + 1) / 2
    return float((ranks[positive].sum() - many * (many + 1) / 2) / (many * few))


def average_precision(score: Values, positive: Values) -> float:
    """Sum over thresholds of precision x gain of recall; equal scores are one threshold.

    NaN without a positive example.
    """
    score, positive = np.asarray(score, np.float64), np.asarray(positive, bool)
    if not positive.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of each run of equal scores
    precision = hits[last] / (last + 1)
    gain = np.diff(hits[last], prepend=0) / hits[-1]
    return float(np.sum(precision * gain))


def one_versus_rest(
    probs: Float[np.ndarray, "n k"], label: Int[np.ndarray, " n"]
) -> tuple[float, float]:
    """(AUROC, average precision): of class 1 with two classes, else the mean over classes that can be scored.

    Rows that are not finite score below all others.
    """
    probs = np.where(np.isfinite(probs), probs, -1.0)
    classes = [1] if probs.shape[1] == 2 else range(probs.shape[1])
    both = np.array(
        [(auroc(probs[:, k], label == k), average_precision(probs[:, k], label == k)) for k in classes]
    )
    both = both[~np.isnan(both).any(axis=1)]
    return tuple(both.mean(axis=0).tolist()) if len(both) else (float("nan"), float("nan"))


def per_class(confusion: Int[np.ndarray, "k k"], names: Sequence[str]) -> list[dict[str, Any]]:
    """[{class, precision, recall, f1, support}] of a confusion matrix with true classes as rows.

    Recall is None for a class without examples, precision for one that is never predicted; F1 is then 0 or None.
    """
    hits, actual, guessed = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)

    def share(part: Any, whole: Any) -> float | None:
        return float(part / whole) if whole else None

    return [
        {
            "class": name,
            "precision": share(hits[k], guessed[k]),
            "recall": share(hits[k], actual[k]),
            "f1": share(2 * hits[k], actual[k] + guessed[k]),
            "support": int(actual[k]),
        }
        for k, name in enumerate(names)
    ]


def confusion_matrix(
    predicted: Int[np.ndarray, " n"], label: Int[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "k k"]:
    """Counts; rows are true classes."""
    found = np.zeros((classes, classes), int)
    np.add.at(found, (label, predicted), 1)
    return found
