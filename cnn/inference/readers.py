"""READERS: from files to raw inputs, by the kind of a network's main input. A new kind of file is a line here.

A reader changes nothing that a network could depend on: sizes, channels and values are those of the file. What the
network needs besides is done by `cnn.inference.preprocess`.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cnn.errors import UserError, printable
from cnn.files.dicom import is_slice, read_dicom
from cnn.files.images import BadImage, decode_image
from cnn.files.series import TsFile, read_csv, read_npy
from cnn.files.volumes import SUFFIXES, BadVolume, read_nifti, spacing_of


@dataclasses.dataclass(frozen=True, eq=False)
class Raw:
    """One input as it was read.

    Attributes:
      arrays: entries of an example by name: `image` uint8 [h, w, c], `volume` float32 [d, h, w, c] with `spacing` [3]
        in mm, `series` [t, c] in which NaN is a gap.
      path: of the file or folder; '' for an array.
      name: what predictions are listed under: the path, or 'FILE#3' for the fourth series of a file.
      affine: of volumes, [4, 4] from (d, h, w) of a voxel's centre to mm; see `cnn.files.volumes.Volume`.
      rate: samples per second of series and audio, None if unknown.
    """

    arrays: dict[str, np.ndarray]
    path: str = ""
    name: str = ""
    affine: np.ndarray | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.path or "array")


@dataclasses.dataclass(frozen=True)
class Reader:
    """How the files of one kind are read.

    Attributes:
      suffixes: of its files, lower case.
      read: path -> one raw input, or several; raises UserError, one line that begins with the path.
      folder: whether files (paths) of one folder are the parts of one input, which then is read by the folder's path.
      folder_of: what such a folder holds, for messages.
    """

    suffixes: tuple[str, ...]
    read: Callable[[str], Iterator[Raw]]
    folder: Callable[[Sequence[str]], bool] | None = None
    folder_of: str = ""

    def takes(self, path: str) -> bool:
        """Whether a file has one of the suffixes, in whatever case."""
        return path.lower().endswith(self.suffixes)


def read(kind: str, path: str | os.PathLike[str]) -> Iterator[Raw]:
    """The raw inputs of a file or folder.

    Args:
      kind: name of a network's main input, a key of READERS.

    Raises:
      UserError: it cannot be read, or nothing reads files of this kind.
    """
    path = os.fspath(path)
    if kind not in READERS:
        raise UserError(f"{printable(path)}: there is no reader of files for inputs of kind '{kind}'; pass arrays")
    return READERS[kind].read(path)


def _image(path: str) -> Iterator[Raw]:
    try:
        yield Raw({"image": decode_image(path)}, path)
    except BadImage as error:
        raise UserError(f"{printable(path)}: {error}") from error


def _volume(path: str) -> Iterator[Raw]:
    if path.lower().endswith(".npy"):
        yield Raw({"volume": read_npy(path)}, path)
        return
    if os.path.isfile(path) and is_slice(path):
        raise UserError(f"{printable(path)}: one DICOM slice; give the folder of its series")
    try:
        found = read_dicom(path) if os.path.isdir(path) else read_nifti(path, "all")
    except BadVolume as error:
        raise UserError(f"{printable(path)}: {error}") from error
    spacing = np.array(spacing_of(found.affine), np.float32)
    yield Raw({"volume": found.voxels, "spacing": spacing}, path, affine=found.affine)


def _series(path: str) -> Iterator[Raw]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".ts":
        for number, series in enumerate(TsFile(path, labelled=False).series):
            yield Raw({"series": series}, path, f"{path}#{number}")
    else:
        yield Raw({"series": read_npy(path) if suffix == ".npy" else read_csv(path)}, path)


def _slices(paths: Sequence[str]) -> bool:
    return any(map(is_slice, paths))


IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
READERS: dict[str, Reader] = {
    "image": Reader(IMAGES, _image),
    "volume": Reader((*SUFFIXES, ".npy"), _volume, _slices, "DICOM slices"),
    "series": Reader((".npy", ".csv", ".ts"), _series),
}


def given(kind: str, value: Any) -> Raw:
    """A raw input that is in memory already: an array, or a dict of arrays where a network has several inputs."""
    arrays = value if isinstance(value, Mapping) else {kind: value}
    return Raw({name: np.asarray(one) for name, one in arrays.items()})
