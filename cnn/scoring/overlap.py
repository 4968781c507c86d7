"""How much of a predicted mask is right: counts per class, and the scores made of them, on the host."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num

from cnn.features import IGNORE
from cnn.scoring import sums as metrics

Counts = Num[np.ndarray, "... 3 k"]  # pixels of each class: right, said, true


def count(
    said: Integer[np.ndarray, "n *space"], mask: Integer[np.ndarray, "n *space"], classes: int
) -> Integer[np.ndarray, "n 3 k"]:
    """Pixels of each class in each example: right, said, true. Ignored ones count in none."""
    rows = []
    for guess, true in zip(said, mask, strict=True):
        seen = true != IGNORE
        guess, true = guess[seen], true[seen]
        found = (true[guess == true], guess, true)
        rows.append([np.bincount(labels, minlength=classes)[:classes] for labels in found])
    return np.array(rows, np.int64).reshape(-1, 3, classes)


def iou(counts: Counts) -> Float[np.ndarray, "... k"]:
    """Intersection over union; NaN for a class that is neither there nor said to be."""
    right, said, true = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    return metrics.mean((right, said + true - right))


def dice(counts: Counts) -> Float[np.ndarray, "... k"]:
    """2 right / (said + true), the F1 of the pixels; NaN as for `iou`."""
    right, said, true = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    return metrics.mean((2 * right, said + true))


def mean(values: Float[np.ndarray, "..."]) -> float:
    """Of those that are numbers; NaN of none."""
    values = np.asarray(values)[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def scores(counts: Num[np.ndarray, "3 k"], background: bool) -> dict[str, float]:
    """Of counts added over a whole split.

    Returns:
      accuracy: share of the pixels that are right; mean_accuracy: of each class's, averaged over the classes that are
      there; miou: over all classes; dice: over all but the background.
    """
    right, _, true = np.asarray(counts, np.float64)
    return {
        "accuracy": float(metrics.mean((right.sum(), true.sum()))),
        "mean_accuracy": mean(metrics.mean((right, true))),
        "miou": mean(iou(counts)),
        "dice": mean(dice(counts)[int(background) :]),
    }


def per_class(counts: Num[np.ndarray, "3 k"], names: Sequence[str]) -> list[dict[str, Any]]:
    """[{class, iou, dice, precision, recall, pixels}]; None where a share is of nothing."""
    right, said, true = np.asarray(counts, np.float64)
    columns = {
        "iou": iou(counts),
        "dice": dice(counts),
        "precision": metrics.mean((right, said)),
        "recall": metrics.mean((right, true)),
    }
    return [
        {"class": name}
        | {key: None if np.isnan(value[k]) else float(value[k]) for key, value in columns.items()}
        | {"pixels": int(true[k])}
        for k, name in enumerate(names)
    ]
