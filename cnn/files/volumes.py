"""Files of volumes: NIfTI in and out, with their place in millimetres; DICOM series are read by `cnn.files.dicom`.

In memory an axis order is one for all: `d h w` = (inferior to superior, posterior to anterior, left to right), whatever
the file's order is; a mask is written back in the file's own order, so that viewers lay it over its image. Lengths are
millimetres in memory, whatever unit the file's `xyzt_units` names.
"""

import dataclasses
import os
import warnings
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float, Num, Shaped

from cnn.errors import UserError
from cnn.files.checksums import GZIP, Damaged, gunzip, gunzip_start
from cnn.files.regular import NotRegular, open_regular

SUFFIXES = (".nii", ".nii.gz")
DAMAGED = "truncated or damaged"
NO_VOLUME, TYPE = "not a NIfTI file", "unsupported voxel type"
FOUR_D, FLAT, NOT_WHOLE, NO_PLACE = "4-D", "not 3-D", "no whole numbers in 0..255", "an affine that is not invertible"
TOO_MANY = "too many voxels"
CHANNELS = ("refuse", "first", "all")
MM, UNKNOWN = "mm", "unknown"
MM_PER = {MM: 1.0, "micron": 1e-3, "meter": 1e3, UNKNOWN: 1.0}  # of NIfTI's units of length
MAX_VOXELS = 1 << 31  # in one file, all channels together; 8 GiB as float32
WHOLE = 1e-3  # a class id may be off a whole number by so much: slopes are rounded
_HEADERS = {348: "Nifti1", 540: "Nifti2"}  # their length, which is their first number
_START = 1 << 16  # bytes of a file in which its header is found, compressed or not
_SLACK = 1 << 20  # bytes that may follow the voxels of a compressed file


class BadVolume(Exception):
    """A file that cannot be used; the text says why."""


@dataclasses.dataclass(frozen=True)
class Volume:
    """Voxels with their place.

    Attributes:
      voxels: [d, h, w, c] or [d, h, w].
      affine: [4, 4], from (d, h, w) of a voxel's centre to mm (to the right, to the front, upwards).
      unit: of lengths in the file: 'mm', 'micron' or 'meter', converted to mm; 'unknown', taken as mm.
    """

    voxels: Shaped[np.ndarray, "d h w *c"]
    affine: Float[np.ndarray, "4 4"]
    unit: str = MM

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between voxels along d, h, w."""
        return spacing_of(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Millilitres of one voxel, also where the axes are not at right angles."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


class Facts(NamedTuple):
    """What the header of a file says.

    Attributes:
      shape: d h w, or d h w c.
      spacing: mm along d, h, w.
      unit: as in `Volume`.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, float, float]
    unit: str


def spacing_of(affine: Float[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """mm per step along each axis of an affine, in the digits that float32 keeps."""
    d, h, w = (float(f"{step:.6g}") for step in np.linalg.norm(affine[:3, :3], axis=0))
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
    found = _opened(path)
    if len(found.shape) == 4 and channels == "refuse":
        raise BadVolume(f"{FOUR_D} {found.shape}")
    voxels = _voxels(found, np.float32)
    voxels = voxels.reshape(*found.shape, 1) if len(found.shape) == 3 else voxels.reshape(found.shape)
    if channels == "first":
        voxels = voxels[..., :1]
    return canonical(voxels, found.affine, found.unit)


def read_mask(path: str | os.PathLike) -> Volume:
    """Class ids of a .nii or .nii.gz file, uint8 [d, h, w].

    Raises:
      BadVolume: with the reason; also where a value is not a whole number in 0..255.
      UserError: nibabel is not installed.
    """
    found = _opened(path)
    if len(found.shape) == 4:
        raise BadVolume(f"{FOUR_D} {found.shape}")
    return canonical(_ids(found).reshape(found.shape), found.affine, found.unit)


def facts(path: str | os.PathLike) -> Facts:
    """What the header alone says; the voxels are not looked at.

    Raises:
      BadVolume: with the reason.
    """
    found = _opened(path, whole=False)
    order = _orientation(found.affine)[:, 0].astype(int)
    space, size = (np.empty(3) for _ in range(2))
    space[order], size[order] = spacing_of(found.affine), found.shape[:3]
    d, h, w = space[::-1].tolist()
    return Facts((*size[::-1].astype(int).tolist(), *found.shape[3:]), (d, h, w), found.unit)


def write_nifti(
    path: str | os.PathLike,
    voxels: Num[np.ndarray, "d h w"],
    affine: Float[np.ndarray, "4 4"],
    like: str | os.PathLike = "",
) -> None:
    """Writes voxels as .nii or .nii.gz (by the name).

    Args:
      affine: from (d, h, w) to mm, as `Volume` has it.
      like: the file that the voxels belong to; its axis order, affine, unit and header are used, so that both lie
        over each other voxel by voxel. Without, the axes are (x, y, z) and the unit is mm.

    Raises:
      UserError: `like` has another size or cannot be read, the place cannot be written, or nibabel is not installed.
    """
    nib = needs("nibabel")
    if not str(path).endswith(SUFFIXES):
        raise UserError(f"{path}: a NIfTI file is named {' or '.join(SUFFIXES)}")
    kind = np.dtype(np.uint8 if voxels.dtype == bool else voxels.dtype)
    kind = np.dtype({"int64": "int32", "uint64": "uint32", "float16": "float32"}.get(kind.name, kind.name))
    there = np.ascontiguousarray(voxels.transpose(2, 1, 0)).astype(kind)
    swapped, header, units, made_as = affine[:, [2, 1, 0, 3]], None, (MM, None), nib.Nifti1Image
    if like:
        try:
            source = _opened(like, whole=False)
        except BadVolume as error:
            raise UserError(f"{like}: {error}") from error
        own = _orientation(source.affine)
        there = nib.orientations.apply_orientation(there, nib.orientations.ornt_transform(_RAS, own))
        if there.shape != source.shape[:3]:
            raise UserError(f"{path}: voxels {there.shape} do not belong to {like}, which has {source.shape[:3]}")
        swapped, header = source.header.get_best_affine(), source.header.copy()
        header.set_slope_inter(1, 0)
        units, made_as = _units(source.header), getattr(nib, f"{source.kind}Image")
    made = made_as(there, swapped, header, dtype=kind)
    made.header.set_xyzt_units(*units)
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        nib.save(made, os.fspath(path))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


_RAS = np.array([[0, 1], [1, 1], [2, 1]], float)  # nibabel's word for axes that go right, forward, up


def _orientation(affine: np.ndarray) -> np.ndarray:
    return needs("nibabel").orientations.io_orientation(affine)


class _Nifti(NamedTuple):
    """A file that can be used: its header, what follows from it, and all bytes up to its last voxel (or none)."""

    kind: str
    header: Any
    shape: tuple[int, ...]
    affine: np.ndarray
    unit: str
    content: bytes


def _opened(path: str | os.PathLike, whole: bool = True) -> _Nifti:
    """The header, the shape without trailing axes of one, the affine in mm."""
    needs("nibabel")
    try:
        with open_regular(path) as file:
            return _read(file, whole)
    except NotRegular as error:
        raise BadVolume(str(error)) from error
    except OSError as error:
        raise BadVolume(f"cannot be opened ({error.strerror or error})") from error
    except (Damaged, EOFError) as error:
        raise BadVolume(f"{DAMAGED} ({error})") from error


def _read(file: BinaryIO, whole: bool) -> _Nifti:
    start = file.read(_START)
    packed = start.startswith(GZIP)
    kind, header = _header(gunzip_start(start, max(_HEADERS)) if packed else start)
    dtype, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
    if dtype.names or dtype.kind not in "uif":
        raise BadVolume(f"{TYPE} ({'RGB' if dtype.names else 'complex' if dtype.kind == 'c' else dtype})")
    count = int(np.prod(shape, dtype=object))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise BadVolume(f"{FLAT} {shape}")
    if count > MAX_VOXELS:
        raise BadVolume(f"{TOO_MANY} ({count:,}; the limit is {MAX_VOXELS:,})")
    unit = _units(header)[0]
    affine = np.asarray(header.get_best_affine(), np.float64).copy()
    affine[:3] *= MM_PER[unit]
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not steps.all() or abs(np.linalg.det(affine[:3, :3] / steps)) < 1e-6:
        raise BadVolume(NO_PLACE)
    content = b""
    if whole:
        offset = header.get_data_offset()
        if offset < header.sizeof_hdr:
            raise Damaged("the voxels begin inside of the header")
        needed = offset + count * dtype.itemsize
        rest = start + file.read(-1 if packed else max(needed - len(start), 0))
        content = gunzip(rest, needed + _SLACK) if packed else rest
        if len(content) < needed:
            raise Damaged(f"{len(content):,} bytes, its header needs {needed:,}")
    return _Nifti(kind, header, shape, affine, unit, content)


def _header(start: bytes) -> tuple[str, Any]:
    """('Nifti1' or 'Nifti2', nibabel's header of it)."""
    nib = needs("nibabel")
    if len(start) < 4:
        raise BadVolume(DAMAGED if start else "empty file")
    length = next((n for n in _HEADERS for order in ("little", "big") if int.from_bytes(start[:4], order) == n), 0)
    if not length:
        raise BadVolume(NO_VOLUME)
    if len(start) < length:
        raise BadVolume(DAMAGED)
    kind = _HEADERS[length]
    try:
        with warnings.catch_warnings(), nib.imageglobals.LoggingOutputSuppressor():
            warnings.simplefilter("ignore")
            header = getattr(nib, f"{kind}Header")(start[:length], check=True)
            header.get_best_affine(), header.get_data_dtype(), header.get_data_shape(), header.get_slope_inter()
            int(header.get_data_offset())
    except Exception as error:  # a field that no header may have, of many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        raise BadVolume(f"{NO_VOLUME} ({reason})") from error
    return kind, header


def _units(header: Any) -> tuple[str, str | None]:
    """(unit of length, unit of time) of a header; 'unknown' also for a code that the standard does not have."""
    try:
        space, time = header.get_xyzt_units()
    except KeyError:
        return UNKNOWN, None
    return space, time if time != UNKNOWN else None


def _image(found: _Nifti) -> Any:
    return getattr(needs("nibabel"), f"{found.kind}Image").from_bytes(found.content)


def _voxels(found: _Nifti, dtype: Any) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that overflow, which stay infinite and are found later
            return np.asarray(_image(found).dataobj, dtype)
    except Exception as error:  # extensions and scales can be wrong in many ways
        raise BadVolume(f"{DAMAGED} ({type(error).__name__})") from error


def _ids(found: _Nifti) -> np.ndarray:
    """Voxels as class ids, uint8."""
    slope, intercept = found.header.get_slope_inter()
    if found.header.get_data_dtype().kind in "iu" and slope in (None, 1.0) and intercept in (None, 0.0):
        try:
            ids = _image(found).dataobj.get_unscaled()
        except Exception as error:
            raise BadVolume(f"{DAMAGED} ({type(error).__name__})") from error
        if ids.min() < 0 or ids.max() > 255:
            raise BadVolume(f"{NOT_WHOLE} ({ids.min()} to {ids.max()})")
        return ids.astype(np.uint8)
    values = _voxels(found, np.float64)
    values = np.where(np.isfinite(values), values, -1)
    ids = np.rint(values)
    wrong = (np.abs(values - ids) > WHOLE) | (ids < 0) | (ids > 255)
    if wrong.any():
        raise BadVolume(f"{NOT_WHOLE} ({values[wrong][0]:g})")
    return ids.astype(np.uint8)


def canonical(
    voxels: Shaped[np.ndarray, "x y z *c"], affine: Float[np.ndarray, "4 4"], unit: str = MM
) -> Volume:
    """Turns voxels to d h w (and c): axes are swapped and mirrored, nothing is resampled.

    Args:
      affine: from (x, y, z) of a voxel, whatever way those axes go, to mm.
      unit: of the file, for `Volume.unit`.
    """
    nib = needs("nibabel")
    turned = nib.orientations.apply_orientation(voxels, _orientation(affine))
    to_ours = affine @ nib.orientations.inv_ornt_aff(_orientation(affine), voxels.shape[:3])
    order = (2, 1, 0, *range(3, voxels.ndim))
    return Volume(np.ascontiguousarray(turned.transpose(order)), to_ours[:, [2, 1, 0, 3]], unit)
