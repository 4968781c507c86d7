"""How well the outlines of predicted masks lie: the boundary F score of pictures."""

import math

import numpy as np
from jaxtyping import Bool, Integer

from cnn.features import IGNORE

TOLERANCE = 0.0075  # of the picture's diagonal, as Csurka et al. 2013 have it
WORK = 1 << 28  # pixels x classes that a report looks at; of larger splits it takes the first pictures


def outline(inside: Bool[np.ndarray, "h w"], seen: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels of a region beside a seen pixel outside of it (four neighbours); the picture's border is none."""
    outside = np.pad(seen & ~inside, 1)
    beside = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
    return inside & seen & beside


def _near(points: Bool[np.ndarray, "h w"], others: Bool[np.ndarray, "h w"], reach: float) -> float:
    """Share of `points` that lie within `reach` pixels of one of `others`; both hold some."""
    import cv2

    distance = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[points] <= reach + 1e-4).mean())


def boundary_f(
    said: Integer[np.ndarray, "h w"], mask: Integer[np.ndarray, "h w"], classes: int, tolerance: float = TOLERANCE
) -> list[float]:
    """F of each class whose outline is in one of the two masks: 2PR / (P + R), P the share of the said outline within
    the tolerance of the true one, R the other way round (Csurka et al. 2013, "What is a good evaluation measure for
    semantic segmentation?", section 3.2). 0 where only one of the two has an outline.

    Args:
      tolerance: as a fraction of the diagonal; at least one pixel.
    """
    seen = mask != IGNORE
    reach = max(1.0, tolerance * math.hypot(*mask.shape))
    found = []
    for k in range(classes):
        guess, true = outline(said == k, seen), outline(mask == k, seen)
        if guess.any() and true.any():
            precision, recall = _near(guess, true, reach), _near(true, guess, reach)
            found.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
        elif guess.any() or true.any():
            found.append(0.0)
    return found


class BoundaryF:
    """The mean of `boundary_f` over the pictures of a split and the classes that they hold.

    Args:
      classes: number of them.
    """

    def __init__(self, classes: int):
        self.examples = 0
        self._classes = classes
        self._found: list[float] = []
        self._looked = 0

    def add(
        self, predicted: Integer[np.ndarray, "n h w"], mask: Integer[np.ndarray, "n h w"]
    ) -> None:
        """Compares some more pictures, until WORK is done."""
        self.examples += len(mask)
        most = max(1, WORK // max(mask[0].size * self._classes, 1)) if len(mask) else 0
        for one, true in zip(predicted, mask, strict=True):
            if self._looked < most:
                self._found += boundary_f(one, true, self._classes)
                self._looked += 1

    def result(self) -> tuple[float, int]:
        """(mean, pictures that were compared); NaN where there is no outline at all."""
        return (float(np.mean(self._found)) if self._found else float("nan")), self._looked
