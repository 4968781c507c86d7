"""DICOM series: a folder of slices -> one volume in Hounsfield units (or whatever slope and intercept say)."""

import collections
import os
import warnings
from typing import Any

import numpy as np

from cnn.files.volumes import BadVolume, Volume, canonical, needs

EMPTY, TWO_SERIES, UNEVEN = "no DICOM slices", "several series", "slices at uneven distances"
MIXED, DOUBLE, PLACE = "slices of different shapes", "slices on one place", "slices without a place"
COLOUR, PIXELS = "colour slices", "pixels unreadable"
_GAP = 0.02  # distances of neighbouring slices may differ by so much of their median
_NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def read_dicom(folder: str | os.PathLike, series: str = "") -> Volume:
    """The slices in a folder, sorted by their place along the normal, with slope and intercept; float32 [d, h, w, 1].

    The axes are turned as those of a NIfTI file are, so that one network takes both.

    Args:
      series: SeriesInstanceUID, where the folder holds several.

    Raises:
      BadVolume: with the reason; a folder of several series names them.
      UserError: pydicom or nibabel is not installed.
    """
    slices = _slices(folder, series)
    first = slices[0]
    if any(getattr(one, "SamplesPerPixel", 1) != 1 for one in slices):
        raise BadVolume(COLOUR)
    if any(name not in one for one in slices for name in _NEEDED):
        raise BadVolume(PLACE)
    if len({(one.Rows, one.Columns, *map(float, one.PixelSpacing)) for one in slices}) > 1:
        raise BadVolume(MIXED)
    along_row, along_column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    turned = [np.array(one.ImageOrientationPatient, float) - [*along_row, *along_column] for one in slices]
    if np.abs(turned).max() > 1e-3:
        raise BadVolume(f"{MIXED} (orientations)")
    normal = np.cross(along_row, along_column)
    places = np.array([np.array(one.ImagePositionPatient, float) @ normal for one in slices])
    order = np.argsort(places, kind="stable")
    slices, gaps = [slices[i] for i in order], np.diff(places[order])
    step = float(np.median(gaps)) if len(gaps) else float(getattr(first, "SliceThickness", 0) or 1.0)
    if len(gaps) and gaps.min() < 1e-3:
        raise BadVolume(DOUBLE)
    if len(gaps) and np.abs(gaps - step).max() > _GAP * step:
        raise BadVolume(f"{UNEVEN} ({gaps.min():.3g} to {gaps.max():.3g} mm)")
    voxels = np.stack([_pixels(one) for one in slices], axis=-1)  # row, column, slice
    down, across = map(float, first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([along_column * down, along_row * across, normal * step], axis=1)
    affine[:3, 3] = np.array(slices[0].ImagePositionPatient, float)
    to_ours = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes go to the left and to the back
    return canonical(voxels[..., None], to_ours @ affine)


def is_slice(path: str | os.PathLike) -> bool:
    """Whether a file begins as those of DICOM do; directories of a medium (DICOMDIR) are none."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM" and os.path.basename(path) != "DICOMDIR"
    except OSError:
        return False


def _slices(folder: str | os.PathLike, series: str) -> list[Any]:
    pydicom = needs("pydicom")
    if not os.path.isdir(folder):
        raise BadVolume("no such folder")
    found: dict[str, list[Any]] = collections.defaultdict(list)
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(".") or not os.path.isfile(path):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                one = pydicom.dcmread(path)
            except Exception:  # reports, directories and notes lie beside the slices
                continue
        if "PixelData" in one:
            found[str(getattr(one, "SeriesInstanceUID", ""))].append(one)
    if series:
        found = {uid: slices for uid, slices in found.items() if uid == series}
    if not found:
        raise BadVolume(EMPTY)
    if len(found) > 1:
        named = ", ".join(f"{uid} ({len(slices)})" for uid, slices in sorted(found.items()))
        raise BadVolume(f"{TWO_SERIES}: {named}")
    return next(iter(found.values()))


def _pixels(one: Any) -> np.ndarray:
    try:
        pixels = one.pixel_array
    except Exception as error:  # a compression that no installed package reads, or a cut file
        raise BadVolume(f"{PIXELS} ({str(error).splitlines()[0][:120]})") from error
    if pixels.ndim != 2:
        raise BadVolume(f"{COLOUR} or several frames in one file")
    slope, intercept = (float(getattr(one, name, default)) for name, default in _RESCALE)
    return pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)


_RESCALE = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
