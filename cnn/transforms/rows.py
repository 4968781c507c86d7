"""Boxes and points of an example, one row for each: they are moved by the map that moves its pixels.

An example may hold

    boxes    float32 [n, 4]   yxyx in pixels ([n, 6] in volumes, [n, 2] in series); see `cnn.transforms.maps`
    box_*    [n, ...]         anything else of each box: box_labels, ...; of these `box_points` [n, ..., 2] move too
    points   float32 [m, 2]   yx in pixels
    point_*  [m, ...]         anything else of each point

A transform that moves pixels moves boxes and points too. It clips boxes to the image and drops the boxes and points
that end up outside, together with the other entries of theirs.
"""

import dataclasses
from typing import Any

from cnn.draws import Draws, Number
from cnn.transforms.maps import Map
from cnn.transforms.options import check_probability

Example = dict[str, Any]
BOXES, OF_BOXES, BOX_POINTS = "boxes", "box_", "box_points"
POINTS, OF_POINTS = "points", "point_"


@dataclasses.dataclass(frozen=True)
class Geometric:
    """Base of transforms that move pixels, voxels or steps.

    Attributes:
      visible: boxes of which a smaller share remains inside are dropped.
    """

    visible: Number = dataclasses.field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        check_probability(self.visible, "visible")

    def maps(self, example: Example, draws: Draws) -> list[Map]:
        """What `__call__` does to the pixels with the same draws, one map for each example of them."""
        raise NotImplementedError


def has_rows(example: Example) -> bool:
    """Whether there are boxes or points to move."""
    return BOXES in example or POINTS in example


def rows_moved(example: Example, done: Map, visible: Number) -> Example:
    """The boxes, the points and the other entries of theirs after the map; nothing else of the example."""
    found: Example = {}
    if BOXES in example:
        found[BOXES], kept = done.move_boxes(example[BOXES], visible)
        found |= {key: value for key, value in example.items() if key.startswith(OF_BOXES)}
        if BOX_POINTS in found:
            found[BOX_POINTS] = done.forward(found[BOX_POINTS])
        found = {key: value[kept] for key, value in found.items()}
    if POINTS in example:
        points = done.forward(example[POINTS])
        rows = {POINTS: points} | {key: value for key, value in example.items() if key.startswith(OF_POINTS)}
        kept = done.inside(points)
        found |= {key: value[kept] for key, value in rows.items()}
    return found


