"""DICOM series: a folder of slices -> one volume in Hounsfield units (or whatever the modality's table or slope says).

What the standard says of a tag is done: the modality's lookup table or slope and intercept turn stored values into
units, MONOCHROME1 (low values are white) is turned into MONOCHROME2, a tag that is there but empty counts as absent.
The window that a viewer would apply (VOI LUT) is not: `volume_intensity` does that the same way for all files.
"""

import collections
import os
import re
import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from cnn.errors import printable
from cnn.files.regular import NotRegular, open_regular, why_not
from cnn.files.volumes import BadVolume, Volume, canonical, needs
from cnn.files.walk import entries

EMPTY, TWO_SERIES, UNEVEN = "no DICOM slices", "several series", "slices at uneven distances"
MIXED, DOUBLE, PLACE = "slices of different shapes", "slices on one place", "slices without a place"
COLOUR, PIXELS, UNREADABLE = "colour slices", "pixels unreadable", "cannot be read as a slice"
SUFFIXES = (".dcm", ".dicom", ".ima")
_GAP = 0.02  # distances of neighbouring slices may differ by so much of their mean
_TURN = 1e-3  # direction cosines of slices may differ by so much
_LARGEST = 1 << 26  # pixels of a slice
_GREY = ("MONOCHROME1", "MONOCHROME2")


class _Slice(NamedTuple):
    """One file: its name, pydicom's data set, and where it lies: mm to the left, to the back, upwards."""

    name: str
    tags: Any
    position: Float[np.ndarray, "3"]
    along_row: Float[np.ndarray, "3"]
    along_column: Float[np.ndarray, "3"]
    spacing: tuple[float, float]  # mm from row to row, from column to column


def read_dicom(folder: str | os.PathLike, series: str = "") -> Volume:
    """The slices in a folder, sorted by their place along the normal, in the modality's units; float32 [d, h, w, 1].

    The axes are turned as those of a NIfTI file are, so that one network takes both. A step from slice to slice is the
    difference of their positions, which a tilted gantry moves off the normal: the affine is then sheared.

    Args:
      series: SeriesInstanceUID, where the folder holds several.

    Raises:
      BadVolume: with the reason; a folder of several series names them, a file that cannot be read is named.
      UserError: pydicom or nibabel is not installed.
    """
    slices = [_placed(name, tags) for name, tags in _found(folder, series)]
    first = slices[0]
    if len({(_whole(one, "Rows"), _whole(one, "Columns"), *one.spacing) for one in slices}) > 1:
        raise BadVolume(MIXED)
    turned = [[one.along_row - first.along_row, one.along_column - first.along_column] for one in slices]
    if np.abs(turned).max() > _TURN:
        raise BadVolume(f"{MIXED} (orientations)")
    normal = np.cross(first.along_row, first.along_column)
    slices.sort(key=lambda one: one.position @ normal)
    affine = np.eye(4)
    down, across = first.spacing
    axes = [first.along_column * down, first.along_row * across, _step(slices, normal)]
    affine[:3, :3], affine[:3, 3] = np.stack(axes, axis=1), slices[0].position
    voxels = np.stack([_pixels(one) for one in slices], axis=-1)  # row, column, slice
    to_ours = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes go to the left and to the back
    return canonical(voxels[..., None], to_ours @ affine)


def is_slice(path: str | os.PathLike) -> bool:
    """Whether a file begins as those of DICOM do, or is named so; directories of a medium (DICOMDIR) are none."""
    name = os.path.basename(os.fspath(path))
    if name.lower().endswith(SUFFIXES):
        return not why_not(path)
    try:
        with open_regular(path) as file:
            return file.read(132)[128:] == b"DICM" and name != "DICOMDIR"
    except OSError:
        return False


def _step(slices: list[_Slice], normal: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """mm from one slice to the next, a vector."""
    if len(slices) == 1:
        (thickness,) = _numbers(slices[0].name, slices[0].tags, "SliceThickness", 1) or (0.0,)
        return normal * (thickness if thickness > 0 else 1.0)
    positions = np.array([one.position for one in slices])
    gaps = np.diff(positions @ normal)
    if gaps.min() < 1e-3:
        raise BadVolume(DOUBLE)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    even = float(step @ normal)
    if np.abs(gaps - even).max() > _GAP * even:
        raise BadVolume(f"{UNEVEN} ({gaps.min():.3g} to {gaps.max():.3g} mm)")
    off = np.linalg.norm(positions - positions[0] - np.arange(len(slices))[:, None] * step, axis=1).max()
    if off > max(_GAP * even, 1e-3):
        raise BadVolume(f"{UNEVEN} (a slice is {off:.3g} mm beside the line of the others)")
    return step


def _found(folder: str | os.PathLike, series: str) -> list[tuple[str, Any]]:
    """(name, pydicom's data set) of the slices of one series.

    Raises:
      BadVolume: there is none, or several series, or a file that should be a slice cannot be read.
    """
    needs("pydicom")
    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        raise BadVolume("no such folder")
    found: dict[str, list[tuple[str, Any]]] = collections.defaultdict(list)
    unread: dict[str, str] = {}
    for name in entries(folder):
        path = os.path.join(folder, name)
        if why_not(path):
            continue
        tags, reason = _tags(path)
        if tags is not None:
            found[str(tags.get("SeriesInstanceUID") or "")].append((name, tags))
        elif reason:
            unread[name] = reason
    patterns = {_pattern(name) for slices in found.values() for name, _ in slices}
    for name, reason in unread.items():  # notes and reports lie beside the slices; what is named like one is one
        if name.lower().endswith(SUFFIXES) or _pattern(name) in patterns:
            raise BadVolume(f"{printable(name)}: {UNREADABLE} ({reason})")
    if series:
        found = {uid: slices for uid, slices in found.items() if uid == series}
    if not found:
        raise BadVolume(EMPTY)
    if len(found) > 1:
        named = ", ".join(f"{printable(uid)} ({len(slices)})" for uid, slices in sorted(found.items()))
        raise BadVolume(f"{TWO_SERIES}: {named}")
    return next(iter(found.values()))


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _tags(path: str) -> tuple[Any, str]:
    """(pydicom's data set, '') of a file with pixels; (None, reason); (None, '') of DICOM without pixels by design."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_regular(path) as file:
                tags = pydicom.dcmread(file, force=True)  # files without a preamble are DICOM too
            pixels, rows, kind = "PixelData" in tags, tags.get("Rows"), tags.get("SOPClassUID")
            kind = kind or tags.file_meta.get("MediaStorageSOPClassUID")
        except NotRegular as error:
            return None, str(error)
        except Exception as error:  # whatever notes, reports and damaged files make pydicom raise
            return None, _line(error)
    if pixels:
        if "TransferSyntaxUID" not in tags.file_meta:
            implicit, little = tags.original_encoding
            syntax = (pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
                      if little else pydicom.uid.ExplicitVRBigEndian)  # fmt: skip
            tags.file_meta.TransferSyntaxUID = syntax
        return tags, ""
    if not kind:
        return None, "not DICOM" if os.path.getsize(path) else "empty file"
    if rows or "Image Storage" in pydicom.uid.UID(str(kind), pydicom.config.IGNORE).name:
        return None, "it ends before its pixels"
    return None, ""  # a report, a plan, a structure set


def _placed(name: str, tags: Any) -> _Slice:
    """The slice with its place.

    Raises:
      BadVolume: a tag that is needed is absent, empty or not valid.
    """
    if (_numbers(name, tags, "SamplesPerPixel", 1) or (1.0,))[0] != 1:
        raise BadVolume(COLOUR)
    photometric = str(_value(name, tags, "PhotometricInterpretation") or _GREY[1]).strip().upper()
    if photometric not in _GREY:
        raise BadVolume(f"{COLOUR} ({printable(photometric)})")
    tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, photometric  # where they were empty
    needed = (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2))
    found = [_numbers(name, tags, tag, count) for tag, count in needed]
    for (tag, _), numbers in zip(needed, found, strict=True):
        if numbers is None:
            raise BadVolume(f"{PLACE} ({printable(name)} has no {tag})")
    position, turn, spacing = found
    along_row, along_column = np.array(turn).reshape(2, 3)
    if min(spacing) <= 0 or abs(np.linalg.norm(np.cross(along_row, along_column)) - 1) > 0.01:
        raise BadVolume(f"{PLACE} ({printable(name)}: spacing {list(spacing)}, orientation {list(turn)})")
    return _Slice(name, tags, np.array(position), along_row, along_column, spacing)


def _value(name: str, tags: Any, tag: str) -> Any:
    """The value of a tag; None where it is absent or empty.

    Raises:
      BadVolume: it is not what the standard allows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = tags.get(tag)
    except Exception as error:  # pydicom converts on access
        raise BadVolume(f"{printable(name)}: {tag} cannot be read ({_line(error)})") from error
    return None if value is None or value == "" or hasattr(value, "__len__") and not len(value) else value


def _numbers(name: str, tags: Any, tag: str, count: int) -> tuple[float, ...] | None:
    """So many finite numbers of a tag; None where it is absent or empty.

    Raises:
      BadVolume: it holds something else.
    """
    value = _value(name, tags, tag)
    if value is None:
        return None
    try:
        numbers = tuple(float(v) for v in (value if hasattr(value, "__iter__") else (value,)))
    except (TypeError, ValueError) as error:
        raise BadVolume(f"{printable(name)}: {tag} is not numeric") from error
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise BadVolume(f"{printable(name)}: {tag} needs {count} finite number(s), got {list(numbers)[:8]}")
    return numbers


def _whole(one: _Slice, tag: str) -> int:
    """A count; 0 where it is absent, which reading the pixels then reports."""
    found = _numbers(one.name, one.tags, tag, 1)
    return int(found[0]) if found else 0


def _pixels(one: _Slice) -> Float32[np.ndarray, "rows columns"]:
    """Pixels in the modality's units, low values dark."""
    if _whole(one, "Rows") * _whole(one, "Columns") > _LARGEST:
        raise BadVolume(f"{printable(one.name)}: {PIXELS} (above {_LARGEST:,} pixels)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = one.tags.pixel_array
    except Exception as error:  # a compression that no installed package reads, or a cut file
        raise BadVolume(f"{printable(one.name)}: {PIXELS} ({_line(error)})") from error
    if stored.ndim != 2:
        raise BadVolume(f"{COLOUR} or several frames in one file")
    table = _table(one)
    if table is not None:
        low, values = table
        pixels = values[np.clip(stored.astype(np.int64) - low, 0, len(values) - 1)]
        ends = (float(values[0]), float(values[-1]))
    else:
        (slope,) = _numbers(one.name, one.tags, "RescaleSlope", 1) or (1.0,)
        (intercept,) = _numbers(one.name, one.tags, "RescaleIntercept", 1) or (0.0,)
        pixels = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        bits = _whole(one, "BitsStored") or stored.dtype.itemsize * 8
        signed = stored.dtype.kind == "i"
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        ends = (low * slope + intercept, high * slope + intercept)
    inverse = str(_value(one.name, one.tags, "PresentationLUTShape") or "").strip().upper() == "INVERSE"
    if inverse or str(_value(one.name, one.tags, "PhotometricInterpretation")).strip().upper() == _GREY[0]:
        pixels = np.float32(sum(ends)) - pixels  # about the middle of what can be stored, the same in every slice
    return pixels


def _table(one: _Slice) -> tuple[int, Float32[np.ndarray, " n"]] | None:
    """(first stored value, units by stored value) of the Modality LUT; None where there is none.

    Raises:
      BadVolume: its descriptor and its data do not agree.
    """
    sequence = _value(one.name, one.tags, "ModalityLUTSequence")
    if sequence is None:
        return None
    try:
        count, low, depth = (int(v) for v in sequence[0].LUTDescriptor)
        count = count or 1 << 16
        data = sequence[0].LUTData
        if isinstance(data, bytes):
            little = one.tags.file_meta.TransferSyntaxUID.is_little_endian
            width = "u1" if depth <= 8 and len(data) <= count + 1 else f"{'<' if little else '>'}u2"
            data = np.frombuffer(data, width)
        values = np.array(data, np.float32).reshape(-1)[:count]
    except Exception as error:
        raise BadVolume(f"{printable(one.name)}: ModalityLUTSequence cannot be read ({_line(error)})") from error
    if len(values) != count or not count:
        raise BadVolume(f"{printable(one.name)}: ModalityLUTSequence has {len(values)} of {count} entries")
    if low > 32767 and one.tags.pixel_array.dtype.kind == "i":
        low -= 1 << 16  # written as unsigned
    return low, values


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0][:120])
