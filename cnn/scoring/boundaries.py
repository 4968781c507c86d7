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


def mean_boundary_f(
    said: Integer[np.ndarray, "n h w"], mask: Integer[np.ndarray, "n h w"], classes: int
) -> tuple[float, int]:
    """(mean over pictures and classes, pictures looked at); NaN where there is no outline at all."""
    count = max(1, min(len(mask), WORK // max(mask[0].size * classes, 1)))
    found = [f for i in range(count) for f in boundary_f(said[i], mask[i], classes)]
    return (float(np.mean(found)) if found else float("nan")), count
