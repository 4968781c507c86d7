"""Brain extraction on Colin27 (Holmes et al. 1998): the mean of 27 T1 scans of one man's head, 1 mm.

The mask is where Debian's skull-stripped copy of the same head is above 0. It is ONE subject: the left half trains, the
right half tests, mirrored to lie as the left one does, without the 6 mm on either side of the middle. Nothing learnt
here says how well a network does on another head, scanner or disease.

A head is nearly symmetric: the left half's mask, laid unchanged over the mirrored right half, already has a Dice of
0.957 (measured at 1 mm; thresholds reach 0.69 to 0.78). That is the number to beat, not the thresholds'.
"""

import gzip
import hashlib
import os

import numpy as np

from cnn.data import data_root
from cnn.data.arrays import Arrays, InMemory
from cnn.data.fetch import from_debian
from cnn.errors import UserError
from cnn.features import SPACING, DatasetInfo, Feature
from cnn.files.volumes import read_nifti

PACKAGE = "mricron-data"
FOLDER = os.path.join("usr", "share", "mricron", "templates")
# sha256 of the unpacked files.
FILES = {
    "ch2.nii.gz": "707a360b809ba937f6c007231bcf7dc6e2d33657497b254414c9894b6efa5f8c",
    "ch2bet.nii.gz": "521204362226d485c92ef5383327765b0344c99ff9ac60000a1f591ff0c3fb34",
}
MIDDLE, GAP = 90, 6  # of the 181 voxels from left to right; mm without use on either side
HELP = f"install the Debian package {PACKAGE}, or put its {' and '.join(FILES)} into the data_dir"


def find(root: str) -> dict[str, str]:
    """{name: path} in `root`, of the installed Debian package, or fetched from Debian into `root`.

    Raises:
      UserError: they are nowhere, or are other files.
    """
    fetched = os.path.join(root, "downloads", PACKAGE)
    places = [root, os.path.join(root, "colin27"), os.path.join(os.sep, FOLDER), os.path.join(fetched, FOLDER)]

    def there(folder: str) -> bool:
        return all(os.path.isfile(os.path.join(folder, name)) for name in FILES)

    folder = next(filter(there, places), None)
    if folder is None and from_debian(PACKAGE, fetched, [os.path.join(FOLDER, name) for name in FILES]):
        folder = places[-1]
    if folder is None:
        raise UserError(f"colin27 is not on this machine: {HELP}")
    found = {name: os.path.join(folder, name) for name in FILES}
    for name, path in found.items():
        try:
            with gzip.open(path, "rb") as file:
                mark = hashlib.sha256(file.read()).hexdigest()
        except (OSError, EOFError) as error:
            raise UserError(f"{path} cannot be unpacked ({error}); delete it and try again") from error
        if mark != FILES[name]:
            raise UserError(f"{path} is not the published file (sha256 differs); delete it and try again")
    return found


class Colin27(InMemory):
    """One half each, float32 `d h w c` = 181 x 217 x 84 x 1 (0 to 254), classes background and brain, spacing 1 mm.

    Licence: BSD-3-Clause by Debian's copyright file; the head is of the Montreal Neurological Institute.
    """

    def __init__(self, data_dir: str):
        # The shape is left open: transforms change it, and made-up examples may be small.
        free = (None, None, None)
        super().__init__(DatasetInfo(
            "colin27",
            {"volume": Feature.volume(*free, 1), "spacing": SPACING},
            {"mask": Feature.mask(*free)},
            ("background", "brain"),
        ))
        self.root = data_root(data_dir)

    def make(self) -> dict[str, Arrays]:
        files = find(self.root)
        head, brain = (read_nifti(files[name]) for name in FILES)
        mask = (brain.voxels[..., 0] > 0).astype(np.uint8)
        spacing = np.array(head.spacing, np.float32)

        def split(part: slice, step: int) -> Arrays:
            arrays = {"volume": head.voxels[:, :, part], "mask": mask[:, :, part]}
            cut = {name: np.ascontiguousarray(value[:, :, ::step])[None] for name, value in arrays.items()}
            return cut | {"spacing": spacing[None]}

        return {"train": split(slice(0, MIDDLE - GAP), 1), "test": split(slice(MIDDLE + GAP + 1, None), -1)}

    def contents(self) -> tuple[str, ...]:
        return (*FILES.values(), str(GAP))


def colin27(data_dir: str = "") -> Colin27:
    """The data set 'colin27'."""
    return Colin27(data_dir)
