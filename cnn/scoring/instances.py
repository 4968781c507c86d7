"""Single objects out of masks: parting those that touch, and scoring them against the true ones."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int32, Integer

from cnn.errors import UserError

Labels = Integer[np.ndarray, "*space"]  # which object each pixel belongs to; 0 for none


class Matches(NamedTuple):
    """Objects that were found, made up and missed, and the overlap (IoU) of each found one."""

    hits: int
    extra: int
    missed: int
    overlaps: Float[np.ndarray, " hits"]

    @property
    def ap(self) -> float:
        """hits / (hits + extra + missed), what the literature on cells calls average precision (Data Science Bowl 2018,
        StarDist); NaN where there is no object at all. It is not the area that COCO means by the name.
        """
        total = self.hits + self.extra + self.missed
        return self.hits / total if total else float("nan")

    @property
    def f1(self) -> float:
        """2 hits / (said + true); NaN where there is no object at all."""
        total = 2 * self.hits + self.extra + self.missed
        return 2 * self.hits / total if total else float("nan")


def overlaps(said: Labels, true: Labels) -> Float[np.ndarray, "s t"]:
    """IoU of each said object with each true one, in the order of their numbers."""
    numbers_said, said = np.unique(said, return_inverse=True)
    numbers_true, true = np.unique(true, return_inverse=True)
    shape = (len(numbers_said), len(numbers_true))
    both = np.bincount(said.reshape(-1) * shape[1] + true.reshape(-1), minlength=shape[0] * shape[1]).reshape(shape)
    union = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    return (both / union)[numbers_said != 0][:, numbers_true != 0]


def match(said: Labels, true: Labels, threshold: float = 0.5) -> Matches:
    """Pairs said objects with true ones of at least this IoU, each at most once, so that most are paired."""
    from scipy.optimize import linear_sum_assignment

    iou = overlaps(said, true)
    good = iou >= threshold
    # One for a pair, and a little for its overlap: as many pairs as there can be, and the best of them.
    rows, columns = linear_sum_assignment(-(good * (1 + iou / (2 * max(min(iou.shape), 1)))))
    chosen = good[rows, columns]
    hits = int(chosen.sum())
    return Matches(hits, iou.shape[0] - hits, iou.shape[1] - hits, iou[rows, columns][chosen])


def watershed_instances(
    foreground: Bool[np.ndarray, "*space"], apart: int = 5, smooth: float = 2.0, least: int = 0
) -> Int32[np.ndarray, "*space"]:
    """Parts a foreground into objects: watershed of its distance to the background, from the distance's peaks.

    Args:
      apart: pixels between two peaks at least, about the radius of the smallest object.
      smooth: standard deviation in pixels of the Gaussian that takes the noise from the distance.
      least: pixels of an object; smaller ones are dropped.

    Raises:
      UserError: scikit-image is not installed.
    """
    try:
        from skimage.feature import peak_local_max
        from skimage.segmentation import watershed
    except ImportError as error:
        raise UserError("parting objects needs scikit-image: pip install 'cnn[segmentation]'") from error
    from scipy import ndimage

    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(foreground), smooth)
    pieces, _ = ndimage.label(foreground)
    # The border of the picture is no border of an object.
    peaks = peak_local_max(distance, min_distance=apart, labels=pieces, exclude_border=False)
    markers = np.zeros(foreground.shape, np.int32)
    if len(peaks):  # of none it does not say the rank
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    parted = watershed(-distance, markers, mask=foreground).astype(np.int32)
    size = np.bincount(parted.reshape(-1))
    return np.where(size[parted] < least, np.int32(0), parted)
