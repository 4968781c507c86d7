"""Metrics of segmentation: counts of pixels while training; outlines, surfaces and calibration for the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnn.features import IGNORE
from cnn.scoring import boundaries, overlap, surfaces
from cnn.scoring import sums as pairs
from cnn.scoring.classification import Calibration
from cnn.scoring.scorer import Rows, Scorer


class SegmentationScorer(Scorer):
    """image_dice; accuracy, mean_accuracy, miou and dice over all pixels; `per_class`. See `cnn.scoring.overlap`."""

    names = ("image_dice", "accuracy", "mean_accuracy", "miou", "dice")

    def __init__(self, class_names: Sequence[str], background: bool):
        super().__init__()
        self.class_names, self.background = class_names, background

    def result(self) -> dict[str, Any]:
        """See the class."""
        counts = np.asarray(self.sums["class_counts"][0], np.float64)
        found: dict[str, Any] = pairs.means(self.sums) | overlap.scores(counts, self.background)
        return found | {"per_class": overlap.per_class(counts, self.class_names)}


class ReportScorer(SegmentationScorer):
    """Also `boundary_f` of pictures, over as many of them as a bounded amount of work allows (`boundary_f_pictures`
    says how many, where not all); of volumes distances between surfaces, see `surfaces.Summary`; `ece` of the pixels
    where the probabilities are few enough to be kept.

    Args:
      spacing: mm per voxel along each axis; () counts voxels.
      rank: spatial axes of a mask.
    """

    predictions, batch = ("mask", "probs"), ("mask",)

    def __init__(self, class_names: Sequence[str], background: bool, spacing: Sequence[float], rank: int):
        super().__init__(class_names, background)
        self.names = (*self.names, "ece", *({2: ("boundary_f",), 3: ("hd95", "assd", "surface_dice")}.get(rank, ())))
        self._outlines = boundaries.BoundaryF(len(class_names)) if rank == 2 else None
        self._surfaces = surfaces.Summary(class_names, spacing) if rank == 3 else None
        self._calibration = Calibration()

    def add(self, sums: Mapping[str, tuple[Any, Any]], predictions: Rows, batch: Rows) -> None:
        """Compares the masks of one batch."""
        super().add(sums, predictions, batch)
        predicted, mask = predictions["mask"], batch["mask"]
        if self._outlines:
            self._outlines.add(predicted, mask)
        if self._surfaces:
            self._surfaces.add(mask, predicted)
        if "probs" in predictions:
            seen = mask != IGNORE
            self._calibration.add(predictions["probs"][seen], mask[seen].astype(int))

    def result(self) -> dict[str, Any]:
        """See the class."""
        found = super().result()
        if self._outlines:
            found["boundary_f"], looked = self._outlines.result()
            if looked < self._outlines.examples:
                found["boundary_f_pictures"] = looked
        if self._surfaces:
            found |= self._surfaces.result()
        if self._calibration.count.sum():
            found["ece"] = self._calibration.result().ece
        return found
