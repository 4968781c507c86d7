"""Nuclei in 2-D fluorescence microscopy: the example that StarDist ships (Schmidt et al. 2018, arXiv 1806.03535).

One picture of 512 x 512 pixels with 125 labelled nuclei, as foreground against background. Three quadrants train, the
lower right one tests (a nucleus on the border is cut between them). Otsu's threshold has a foreground Dice of 0.835 on
the whole picture and 0.893 on the test quadrant.
"""

import os

import numpy as np
from jaxtyping import Integer

from cnn.data import data_root
from cnn.data.arrays import Arrays, InMemory
from cnn.data.datasets.nuclei3d import WHEEL, find
from cnn.features import DatasetInfo, Feature

FILES = {name: f"stardist/data/images/{name}2d.tif" for name in ("img", "mask")}
SIDE = 256
CORNERS = {"train": ((0, 0), (0, SIDE), (SIDE, 0)), "test": ((SIDE, SIDE),)}  # of the quadrants


class Nuclei2d(InMemory):
    """3 / 1 quadrants, grey 256x256."""

    def __init__(self, data_dir: str):
        classes = ("background", "nucleus")
        super().__init__(DatasetInfo(
            "nuclei2d", {"image": Feature.image(SIDE, SIDE, 1)}, {"mask": Feature.mask(SIDE, SIDE)}, classes
        ))
        self.root = data_root(data_dir)

    def make(self) -> dict[str, Arrays]:
        image, nuclei = self._picture("img"), self._picture("mask")
        return {
            split: {
                "image": quadrants(image, split).astype(np.uint8)[..., None],  # camera counts of at most 235
                "mask": (quadrants(nuclei, split) > 0).astype(np.uint8),
            }
            for split in CORNERS
        }

    def nuclei(self, split: str) -> Integer[np.ndarray, "n h w"]:
        """Which nucleus each pixel belongs to, 0 for none: the truth for scores of instances."""
        return quadrants(self._picture("mask"), split).astype(np.int32)

    def _picture(self, name: str) -> Integer[np.ndarray, "h w"]:
        from PIL import Image

        with Image.open(os.path.join(find(self.root, list(FILES.values())), FILES[name])) as picture:
            return np.array(picture)

    def contents(self) -> tuple[str, ...]:
        return (WHEEL, str(CORNERS))


def quadrants(picture: Integer[np.ndarray, "h w"], split: str) -> Integer[np.ndarray, "n h2 w2"]:
    """The quadrants of a split, stacked."""
    return np.stack([picture[y : y + SIDE, x : x + SIDE] for y, x in CORNERS[split]])


def nuclei2d(data_dir: str = "") -> Nuclei2d:
    """The data set 'nuclei2d'."""
    return Nuclei2d(data_dir)
