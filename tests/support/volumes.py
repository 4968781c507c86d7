"""Small folders in the layout of the Medical Segmentation Decathlon, whole and broken."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def blob(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(CT-like int16 volume, mask of classes 0, 1, 2) in the file's order x y z: a bright ball with a dark core."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    centre = np.array(shape) / 2 + rng.uniform(-2, 2, 3)
    far = np.linalg.norm(grid - centre, axis=-1)
    mask = (far < min(shape) / 3).astype(np.uint8) + (far < min(shape) / 7)
    volume = np.array([-200, 300, 60])[mask] + rng.normal(0, 40, shape)
    return volume.astype(np.int16), mask


def save(path: Path, voxels: np.ndarray, spacing=(1.0, 1.0, 1.0), byte_order: str = "<", unit: str = "mm") -> None:
    """Writes a NIfTI file of this spacing along x y z, in this unit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = nib.Nifti1Header(endianness=byte_order)
    header.set_data_dtype(voxels.dtype)
    header.set_xyzt_units(unit)
    nib.save(nib.Nifti1Image(voxels, np.diag([*spacing, 1.0]), header), path)


def describe(root: Path, names: list[str]) -> None:
    """Writes dataset.json for `names`."""
    pairs = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    said = {"name": "mine", "labels": {"0": "background", "1": "organ", "2": "tumour"}, "modality": {"0": "CT"}}
    (root / "dataset.json").write_text(json.dumps({**said, "numTraining": len(names), "training": pairs}))


def folder(root: Path, count: int = 6, shape=(20, 18, 12), spacing=(1.0, 1.0, 2.5)) -> Path:
    """`count` good cases."""
    names = [f"case_{i}" for i in range(count)]
    for i, name in enumerate(names):
        volume, mask = blob(i, shape)
        save(root / "imagesTr" / f"{name}.nii.gz", volume, spacing)
        save(root / "labelsTr" / f"{name}.nii.gz", mask, spacing)
    describe(root, names)
    return root


def broken(root: Path) -> Path:
    """Six good cases, of which one is big-endian and one has another spacing, and six broken ones."""
    folder(root)
    volume, mask = blob(0, (20, 18, 12))
    images, labels = root / "imagesTr", root / "labelsTr"

    def case(name: str, image=volume, label=mask, **options) -> None:
        save(images / f"{name}.nii.gz", image, **options)
        save(labels / f"{name}.nii.gz", label, options.get("spacing", (1.0, 1.0, 1.0)))

    case("case_1", spacing=(0.5, 0.5, 5.0))
    case("case_2", volume + 1, byte_order=">", spacing=(1.0, 1.0, 2.5))
    case("size", label=mask[:-1])
    case("four", np.stack([volume, volume], -1))
    case("gone")
    (images / "gone.nii.gz").unlink()
    unknown = mask.copy()
    unknown[:2, 0, 0] = 9
    case("unknown", volume + 2, unknown)
    case("empty", volume + 3, np.zeros_like(mask))
    nan = volume.astype(np.float32)
    nan[3, 3, 3] = np.nan
    case("nan", nan)
    describe(root, [*(f"case_{i}" for i in range(6)), "size", "four", "gone", "unknown", "empty", "nan"])
    return root


def series(
    folder, places, uid="1.2.3", rows=4, columns=5, orientation=(1, 0, 0, 0, 1, 0), pixels=None, step=None, **fields
):
    """Writes a DICOM series; without `pixels` [slice, row, column] they tell the place of their slice.

    A place is mm along the normal, or along `step` where it is given. A field of None is written empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, place in enumerate(places):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        one = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID = CTImageStorage, generate_uid(), uid
        one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        along = np.cross(orientation[:3], orientation[3:]) if step is None else np.array(step)
        one.ImagePositionPatient = [float(f"{v:.9g}") for v in np.array([10.0, 20.0, 0.0]) + place * along]
        one.ImageOrientationPatient, one.PixelSpacing = list(orientation), [0.5, 0.75]
        one.RescaleSlope, one.RescaleIntercept = 2, -1000
        for name, value in fields.items():
            setattr(one, name, value)
        ramp = np.arange(rows * columns, dtype=np.int16).reshape(rows, columns) + 100 * int(place)
        one.PixelData = (ramp if pixels is None else pixels[number].astype(np.int16)).tobytes()
        pydicom.dcmwrite(folder / f"{uid}_{number}.dcm", one, enforce_file_format=True)
    return folder
