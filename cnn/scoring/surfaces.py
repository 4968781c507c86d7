"""How well two masks agree: overlap, and the distances between their surfaces in millimetres.

A surface is the set of voxels of a mask that touch its outside by a face; outside of the array is outside of the mask.
Distances are between voxel centres, in the units of `spacing`. Every rank works: pictures, volumes.

Empty masks: two empty ones agree (Dice 1) and have no surfaces, so distances and surface Dice are NaN: there is nothing
to measure, and means leave them out. Where one alone is empty, Dice and surface Dice are 0 and distances infinite.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from cnn.errors import UserError
from cnn.features import IGNORE

Number = int | float


class Agreement(NamedTuple):
    """What two masks have in common.

    Attributes:
      dice: 2 |A and B| / (|A| + |B|) of the voxels.
      hd95: mm, the larger of the two directed 95th percentiles of distances from surface to surface.
      assd: mm, average symmetric surface distance: mean over the voxels of both surfaces.
      surface_dice: share of both surfaces that lies within the tolerance of the other one (Nikolov et al. 2021,
        arXiv 1809.04430), by counting voxels.
    """

    dice: float
    hd95: float
    assd: float
    surface_dice: float


def dice(truth: Bool[np.ndarray, "*space"], predicted: Bool[np.ndarray, "*space"]) -> float:
    """Dice coefficient of two masks; 1 where both are empty."""
    both = int(truth.sum()) + int(predicted.sum())
    return 2 * int((truth & predicted).sum()) / both if both else 1.0


def surface(mask: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """The voxels of a mask with a face on its outside."""
    from scipy import ndimage

    return mask & ~ndimage.binary_erosion(mask)


def surface_distances(
    truth: Bool[np.ndarray, "*space"], predicted: Bool[np.ndarray, "..."], spacing: Sequence[Number] = ()
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Distance of each voxel of either surface to the other one: of the truth's, of the prediction's.

    Infinite where the other mask is empty.

    Args:
      spacing: size of a voxel, one number per axis; () is 1 along each.

    Raises:
      UserError: masks of different shapes, or another number of spacings.
    """
    from scipy import ndimage

    spacing = tuple(spacing) or (1.0,) * truth.ndim
    if truth.shape != predicted.shape:
        raise UserError(f"masks of different shapes: {truth.shape} and {predicted.shape}")
    if len(spacing) != truth.ndim or min(spacing) <= 0:
        raise UserError(f"a mask of shape {truth.shape} needs {truth.ndim} spacings above 0, got {spacing}")
    box = bounding_box(truth | predicted)  # the rest of a volume is far away and costs the most
    surfaces = [surface(mask[box]) for mask in (truth, predicted)]

    def to(other: np.ndarray, own: np.ndarray) -> np.ndarray:
        if not other.any():
            return np.full(int(own.sum()), np.inf)
        return ndimage.distance_transform_edt(~other, sampling=spacing)[own]

    return to(surfaces[1], surfaces[0]), to(surfaces[0], surfaces[1])


def bounding_box(mask: Bool[np.ndarray, "*space"]) -> tuple[slice, ...]:
    """The smallest box that holds a mask; an empty box of an empty mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(i for i in range(mask.ndim) if i != axis)
        found = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0))
    return tuple(box)


def compare(
    truth: Bool[np.ndarray, "*space"],
    predicted: Bool[np.ndarray, "..."],
    spacing: Sequence[Number] = (),
    tolerance: Number = 1.0,
) -> Agreement:
    """All that `Agreement` says of two masks.

    Args:
      spacing: mm per voxel along each axis; () is 1.
      tolerance: of the surface Dice, mm.

    Raises:
      UserError: as `surface_distances`.
    """
    ours, theirs = surface_distances(truth, predicted, spacing)
    everything = np.concatenate([ours, theirs])
    if not len(ours) and not len(theirs):
        return Agreement(1.0, float("nan"), float("nan"), float("nan"))
    if not len(ours) or not len(theirs):
        return Agreement(0.0, float("inf"), float("inf"), 0.0)
    hd95 = max(float(np.percentile(part, 95)) for part in (ours, theirs))
    return Agreement(dice(truth, predicted), hd95, float(everything.mean()), float((everything <= tolerance).mean()))


def per_class(
    truth: UInt8[np.ndarray, "*space"],
    predicted: UInt8[np.ndarray, "*space"],
    class_names: Sequence[str],
    spacing: Sequence[Number] = (),
    tolerance: Number = 1.0,
) -> dict[str, Agreement]:
    """`compare` for every class but the first, which is the background.

    Voxels whose truth is `IGNORE` belong to no class in either mask.
    """
    predicted = np.where(truth == IGNORE, IGNORE, predicted)
    return {
        name: compare(truth == k, predicted == k, spacing, tolerance)
        for k, name in enumerate(class_names)
        if k and k != IGNORE
    }


class Summary:
    """Collects many examples, JSON-able: hd95, assd, surface_dice as means over examples and classes, and `surfaces`.

    `surfaces` has a row per class: {class, dice, hd95, assd, surface_dice, examples, one_empty}. Means leave out pairs
    that are both empty, and distances also those of which one is empty: `one_empty` counts these. `largest_component`
    holds the same of predictions of which each class keeps its largest part alone.

    Args:
      class_names: the background first.
      spacing: mm per voxel along each axis; () counts voxels.
      tolerance: of surface Dice, in the units of `spacing`.
    """

    def __init__(self, class_names: Sequence[str], spacing: Sequence[Number] = (), tolerance: Number = 1.0):
        self._options = (tuple(class_names), tuple(spacing), tolerance)
        self._found: tuple[list[dict[str, Agreement]], list[dict[str, Agreement]]] = ([], [])

    def add(self, truth: UInt8[np.ndarray, "n *space"], predicted: UInt8[np.ndarray, "n *space"]) -> None:
        """Compares some more examples."""
        for true, mask in zip(truth, predicted, strict=True):
            for kept, one in zip(self._found, (mask, largest_component(mask)), strict=True):
                kept.append(per_class(true, one, *self._options))

    def result(self) -> dict[str, Any]:
        """See the class."""

        def scored(found: list[dict[str, Agreement]]) -> dict[str, Any]:
            rows = [{"class": name, **_means([one[name] for one in found])} for name in (found[0] if found else ())]
            everything = _means([agreement for one in found for agreement in one.values()])
            return {name: everything[name] for name in ("hd95", "assd", "surface_dice")} | {"surfaces": rows}

        return scored(self._found[0]) | {"largest_component": scored(self._found[1])}


def _means(found: Sequence[Agreement]) -> dict[str, Any]:
    values = np.array(found, np.float64).reshape(-1, len(Agreement._fields))
    there = values[~np.isnan(values[:, 1])]  # one of the two at least
    finite = np.where(np.isfinite(there), there, np.nan)
    counts = np.isfinite(finite).sum(axis=0)
    sums = np.nansum(finite, axis=0)
    means = [float(total / count) if count else float("nan") for total, count in zip(sums, counts, strict=True)]
    one_empty = int(np.isinf(there[:, 1]).sum())
    return dict(zip(Agreement._fields, means, strict=True)) | {"examples": len(there), "one_empty": one_empty}


def largest_component(mask: UInt8[np.ndarray, "*space"]) -> UInt8[np.ndarray, "*space"]:
    """Each class but 0 and `IGNORE` keeps its largest connected part (by faces); the rest becomes 0.

    Of parts of one size the first in the order of the array stays.
    """
    from scipy import ndimage

    result = mask.copy()
    for k in np.unique(mask):
        if k in (0, IGNORE):
            continue
        parts, count = ndimage.label(mask == k)
        if count > 1:
            sizes = np.bincount(parts.reshape(-1))
            sizes[0] = 0
            result[(parts > 0) & (parts != int(sizes.argmax()))] = 0
    return result
