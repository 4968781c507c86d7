"""The strong trivial answers to segmentation, which every network is printed beside."""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num

from cnn.features import IGNORE
from cnn.scoring import overlap

BINS = 256


def otsu_threshold(values: Num[np.ndarray, "..."]) -> float:
    """The threshold that parts a histogram of 256 bins with the greatest variance between the two sides (Otsu 1979);
    values above it are the bright side. One value only: that value.
    """
    count, edges = np.histogram(values, BINS)
    centre = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(count), np.cumsum(count[::-1])[::-1]
    low = np.cumsum(count * centre) / np.maximum(below, 1)
    high = np.cumsum((count * centre)[::-1])[::-1] / np.maximum(above, 1)
    between = below[:-1] * above[1:] * (low[:-1] - high[1:]) ** 2
    best = np.flatnonzero(between == between.max())  # an empty stretch: its middle
    return float(edges[1 + best].mean())


def bright(inputs: Num[np.ndarray, "n *space c"]) -> Integer[np.ndarray, "n *space"]:
    """1 where an input is above its own Otsu threshold, 0 elsewhere; channels are averaged."""
    grey = [np.asarray(x, np.float32).mean(-1) for x in inputs]
    return np.stack([(g > otsu_threshold(g)).astype(np.uint8) for g in grey])


def most_frequent(masks: Integer[np.ndarray, "n *space"], classes: int) -> Integer[np.ndarray, "*space"]:
    """The most frequent class of every pixel's place."""
    best, most = np.zeros(masks.shape[1:], np.uint8), np.full(masks.shape[1:], -1, np.int64)
    for k in range(classes):  # a count per class at a time: few more bytes than a mask
        count = (masks == k).sum(axis=0)
        best, most = np.where(count > most, np.uint8(k), best), np.maximum(count, most)
    return best


def answers(
    train_x: Num[np.ndarray, "n *space c"],
    train_mask: Integer[np.ndarray, "n *space"],
    test_x: Num[np.ndarray, "m *size c"],
    test_mask: Integer[np.ndarray, "m *size"],
    classes: int,
    background: bool,
) -> dict[str, dict[str, Any]]:
    """The scores of what needs no network, on all of the test set.

    'majority' says the training masks' most frequent class; 'per_position' the most frequent one at each place, where
    all masks have one size; 'otsu' (two classes) parts each input by its own threshold, the bright or the dark side
    being class 1 as in the training set.

    Returns:
      {name: {'accuracy', 'mean_accuracy', 'miou', 'dice', 'image_dice', 'train_examples'}}.
    """

    def score(said: Integer[np.ndarray, "m *size"]) -> dict[str, Any]:
        counts = overlap.count(said, test_mask, classes)
        each = overlap.mean(overlap.dice(counts)[:, int(background) :])
        found = overlap.scores(counts.sum(axis=0), background)
        return found | {"image_dice": each, "train_examples": len(train_mask)}

    seen = np.bincount(train_mask[train_mask != IGNORE], minlength=classes)
    result = {"majority": score(np.full_like(test_mask, seen.argmax()))}
    if train_mask.shape[1:] == test_mask.shape[1:]:
        place = most_frequent(train_mask, classes)
        result["per_position"] = score(np.broadcast_to(place[None], test_mask.shape))
    if classes == 2:
        right: Float[np.ndarray, " k"] = overlap.dice(overlap.count(bright(train_x), train_mask, 2).sum(axis=0))
        wrong = overlap.dice(overlap.count(1 - bright(train_x), train_mask, 2).sum(axis=0))
        said = bright(test_x)
        result["otsu"] = score(said if right[1] >= wrong[1] else 1 - said)
    return result
