"""Nuclei in 3-D fluorescence microscopy: the example that StarDist ships (Weigert et al. 2020, arXiv 1908.03636).

One stack of 31 x 61 x 57 voxels with 51 labelled nuclei, as foreground against background. The first 38 rows train, the
last 19 test, 4 between them are not used; 13 nuclei reach over the gap, so the two parts are neighbours, not strangers.
Otsu's threshold has a Dice of 0.769 on the whole stack and 0.814 on the test part (threshold of the training part).
The size of a voxel is not known: distances are in voxels.
"""

import os

import numpy as np

from cnn.data import data_root
from cnn.data.arrays import Arrays, InMemory
from cnn.data.fetch import from_wheel, in_package
from cnn.errors import UserError
from cnn.features import SPACING, DatasetInfo, Feature

WHEEL = "stardist==0.9.2"  # BSD-3-Clause
FILES = {name: f"stardist/data/images/{name}3d.tif" for name in ("img", "mask")}
EVERY = (*FILES.values(), "stardist/data/images/img2d.tif", "stardist/data/images/mask2d.tif")
TRAIN, TEST = slice(0, 38), slice(42, 61)  # along h


def find(root: str, files: list[str]) -> str:
    """The folder below which StarDist's `files` (of EVERY) lie: of the installed package, or fetched into `root`.

    Raises:
      UserError: they are nowhere.
    """
    fetched = os.path.join(root, "downloads", "stardist")
    installed = in_package("stardist", files)
    if installed:
        return installed
    if all(os.path.isfile(os.path.join(fetched, file)) for file in files) or from_wheel(WHEEL, fetched, EVERY):
        return fetched
    raise UserError(
        f"StarDist's example pictures are not on this machine: pip install --no-deps {WHEEL}, or put "
        f"{' and '.join(files)} of its wheel into {fetched}"
    )


def read_stack(path: str) -> np.ndarray:
    """All pages of a TIFF file, [pages, h, w]."""
    from PIL import Image, ImageSequence

    with Image.open(path) as stack:
        return np.stack([np.array(page) for page in ImageSequence.Iterator(stack)])


class Nuclei3d(InMemory):
    """One block each, float32 `d h w c` = 31 x 38 x 57 x 1 and 31 x 19 x 57 x 1 (raw camera counts)."""

    def __init__(self, data_dir: str):
        free = (None, None, None)
        super().__init__(DatasetInfo(
            "nuclei3d",
            {"volume": Feature.volume(*free, 1), "spacing": SPACING},
            {"mask": Feature.mask(*free)},
            ("background", "nucleus"),
        ))
        self.root = data_root(data_dir)

    def make(self) -> dict[str, Arrays]:
        folder = find(self.root, list(FILES.values()))
        stacks = {name: read_stack(os.path.join(folder, file)) for name, file in FILES.items()}
        volume = stacks["img"].astype(np.float32)[..., None]
        mask = (stacks["mask"] > 0).astype(np.uint8)
        return {
            split: {"volume": volume[None, :, rows].copy(), "mask": mask[None, :, rows].copy()}
            for split, rows in (("train", TRAIN), ("test", TEST))
        }

    def contents(self) -> tuple[str, ...]:
        return (WHEEL, str(TRAIN), str(TEST))


def nuclei3d(data_dir: str = "") -> Nuclei3d:
    """The data set 'nuclei3d'."""
    return Nuclei3d(data_dir)
