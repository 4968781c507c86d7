"""Files of volumes: NIfTI in and out, with their place in millimetres; DICOM series are read by `cnn.files.dicom`.

In memory an axis order is one for all: `d h w` = (inferior to superior, posterior to anterior, left to right), whatever
the file's order is; a mask is written back in the file's own order, so that viewers lay it over its image.
"""

import dataclasses
import os
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Num, Shaped

from cnn.errors import UserError

SUFFIXES = (".nii", ".nii.gz")
NOT_THERE, DAMAGED = "no such file", "truncated or damaged"
NO_VOLUME, TYPE = "not a NIfTI file", "unsupported voxel type"
FOUR_D, FLAT, NOT_WHOLE, NO_PLACE = "4-D", "not 3-D", "no whole numbers in 0..255", "an affine that is not invertible"
CHANNELS = ("refuse", "first", "all")


class BadVolume(Exception):
    """A file that cannot be used; the text says why."""


@dataclasses.dataclass(frozen=True)
class Volume:
    """Voxels with their place.

    Attributes:
      voxels: [d, h, w, c] or [d, h, w].
      affine: [4, 4], from (d, h, w) of a voxel's centre to mm (to the right, to the front, upwards).
    """

    voxels: Shaped[np.ndarray, "d h w *c"]
    affine: Float[np.ndarray, "4 4"]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between voxels along d, h, w."""
        return spacing_of(self.affine)


def spacing_of(affine: Float[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """mm per step along each axis of an affine."""
    d, h, w = np.linalg.norm(affine[:3, :3], axis=0).round(6).tolist()
    return d, h, w


def needs(package: str) -> Any:
    """Imports a package of the extra [medical].

    Raises:
      UserError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"volumes need the package '{package}': pip install 'cnn[medical]'") from error


def is_nifti(path: str | os.PathLike) -> bool:
    """Whether a file's name is that of a NIfTI file, in whatever case."""
    return os.fspath(path).lower().endswith(SUFFIXES)


def read_nifti(path: str | os.PathLike, channels: str = "refuse") -> Volume:
    """Intensities of a .nii or .nii.gz file, float32 [d, h, w, c], with the file's slope and intercept applied.

    Args:
      channels: of a 4-D file: 'refuse' it, keep its 'first', or 'all' as channels. An axis of one is always dropped.

    Raises:
      BadVolume: with the reason.
      UserError: nibabel is not installed.
    """
    image, shape = _opened(path)
    if len(shape) == 4 and channels == "refuse":
        raise BadVolume(f"{FOUR_D} {shape}")
    voxels = _voxels(image, np.float32)
    voxels = voxels.reshape(*shape, 1) if len(shape) == 3 else voxels.reshape(shape)
    if channels == "first":
        voxels = voxels[..., :1]
    return canonical(voxels, image.affine)


def read_mask(path: str | os.PathLike) -> Volume:
    """Class ids of a .nii or .nii.gz file, uint8 [d, h, w].

    Raises:
      BadVolume: with the reason; also where a value is not a whole number in 0..255.
      UserError: nibabel is not installed.
    """
    image, shape = _opened(path)
    if len(shape) == 4:
        raise BadVolume(f"{FOUR_D} {shape}")
    found = _voxels(image, np.float64).reshape(shape)
    ids = np.where(np.isfinite(found), found, -1)
    if (ids != np.rint(ids)).any() or ids.min() < 0 or ids.max() > 255:
        raise BadVolume(NOT_WHOLE)
    return canonical(ids.astype(np.uint8), image.affine)


def facts(path: str | os.PathLike) -> tuple[tuple[int, ...], tuple[float, float, float]]:
    """(shape d h w or d h w c, spacing in mm) from the header alone.

    Raises:
      BadVolume: with the reason.
    """
    image, shape = _opened(path)
    order = _orientation(image.affine)[:, 0].astype(int)
    space, size = (np.empty(3) for _ in range(2))
    space[order], size[order] = spacing_of(image.affine), shape[:3]
    d, h, w = space[::-1].tolist()
    return (*size[::-1].astype(int).tolist(), *shape[3:]), (d, h, w)


def write_nifti(
    path: str | os.PathLike,
    voxels: Num[np.ndarray, "d h w"],
    affine: Float[np.ndarray, "4 4"],
    like: str | os.PathLike = "",
) -> None:
    """Writes voxels as .nii or .nii.gz (by the name).

    Args:
      affine: from (d, h, w) to mm, as `Volume` has it.
      like: the file that the voxels belong to; its axis order, affine and header are used, so that both lie over
        each other voxel by voxel. Without, the axes are (x, y, z).

    Raises:
      UserError: `like` has another size or cannot be read, the place cannot be written, or nibabel is not installed.
    """
    nib = needs("nibabel")
    if not str(path).endswith(SUFFIXES):
        raise UserError(f"{path}: a NIfTI file is named {' or '.join(SUFFIXES)}")
    kind = np.dtype(np.uint8 if voxels.dtype == bool else voxels.dtype)
    kind = np.dtype({"int64": "int32", "uint64": "uint32", "float16": "float32"}.get(kind.name, kind.name))
    there = np.ascontiguousarray(voxels.transpose(2, 1, 0)).astype(kind)
    swapped = affine[:, [2, 1, 0, 3]]
    header = None
    if like:
        try:
            source, shape = _opened(like)
        except BadVolume as error:
            raise UserError(f"{like}: {error}") from error
        own = _orientation(source.affine)
        there = nib.orientations.apply_orientation(there, nib.orientations.ornt_transform(_RAS, own))
        if there.shape != shape[:3]:
            raise UserError(f"{path}: voxels {there.shape} do not belong to {like}, which has {shape[:3]}")
        swapped, header = source.affine, source.header.copy()
        header.set_slope_inter(1, 0)
    made = nib.Nifti1Image(there, swapped, header, dtype=kind)
    made.header.set_xyzt_units("mm")
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        nib.save(made, os.fspath(path))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


_RAS = np.array([[0, 1], [1, 1], [2, 1]], float)  # nibabel's word for axes that go right, forward, up


def _orientation(affine: np.ndarray) -> np.ndarray:
    return needs("nibabel").orientations.io_orientation(affine)


def _opened(path: str | os.PathLike) -> tuple[Any, tuple[int, ...]]:
    """(nibabel's image, its shape without trailing axes of one)."""
    nib = needs("nibabel")
    if not os.path.exists(path):
        raise BadVolume(NOT_THERE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = nib.load(path)
            shape, affine = tuple(int(n) for n in image.shape), np.asarray(image.affine, np.float64)
        except nib.filebasedimages.ImageFileError as error:
            raise BadVolume(NO_VOLUME) from error
        except Exception as error:  # damaged headers and streams raise many different things
            raise BadVolume(DAMAGED) from error
    if image.get_data_dtype().names or image.get_data_dtype().kind == "c":
        raise BadVolume(f"{TYPE} ({'RGB' if image.get_data_dtype().names else 'complex'})")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or 0 in shape:
        raise BadVolume(f"{FLAT} {shape}")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise BadVolume(NO_PLACE)
    return image, shape


def _voxels(image: Any, dtype: Any) -> np.ndarray:
    try:
        return np.asarray(image.dataobj, dtype)
    except Exception as error:  # truncated streams raise EOFError, zlib.error, ValueError, OSError
        raise BadVolume(DAMAGED) from error


def canonical(voxels: Shaped[np.ndarray, "x y z *c"], affine: Float[np.ndarray, "4 4"]) -> Volume:
    """Turns voxels to d h w (and c): axes are swapped and mirrored, nothing is resampled.

    Args:
      affine: from (x, y, z) of a voxel, whatever way those axes go, to mm.
    """
    nib = needs("nibabel")
    turned = nib.orientations.apply_orientation(voxels, _orientation(affine))
    to_ours = affine @ nib.orientations.inv_ornt_aff(_orientation(affine), voxels.shape[:3])
    order = (2, 1, 0, *range(3, voxels.ndim))
    return Volume(np.ascontiguousarray(turned.transpose(order)), to_ours[:, [2, 1, 0, 3]])
