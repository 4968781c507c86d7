"""`cnn predict --masks` for volumes: NIfTI files and DICOM series in, a NIfTI mask out that lies over its input.

The whole volume is predicted, tile by tile with Gaussian blending, in the spacing and intensities that the network was
trained with; cropping transforms are left out. The mask goes back to the input's own voxels, axis order and affine.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cnn.draws import Draws
from cnn.errors import UserError
from cnn.files.dicom import read_dicom
from cnn.files.volumes import SUFFIXES, BadVolume, Volume, read_nifti, write_nifti
from cnn.inference.tiles import Tiling
from cnn.scoring.surfaces import largest_component
from cnn.transforms import build_transforms
from cnn.transforms.apply import transform_examples
from cnn.transforms.volume import resampled_mask, triple, windowed

_WHOLE = ("volume_spacing", "volume_intensity")  # transforms that keep all of the volume


def inputs(paths: Sequence[str]) -> Iterator[str]:
    """NIfTI files, those below folders, and folders of DICOM slices.

    Raises:
      UserError: a path that does not exist, or is a file of another kind.
    """
    for path in paths:
        if os.path.isdir(path):
            found = sorted(str(file) for file in Path(path).rglob("*") if file.name.endswith(SUFFIXES))
            yield from found or [path]
        elif path.endswith(SUFFIXES) and os.path.exists(path):
            yield path
        else:
            what = "is no NIfTI file" if os.path.exists(path) else "does not exist"
            raise UserError(f"{path} {what}; give {' or '.join(SUFFIXES)} files, or a folder of DICOM slices")


def read(path: str, channels: int) -> Volume:
    """The volume of a NIfTI file or of a folder of DICOM slices.

    Raises:
      UserError: it cannot be used, or has another number of channels.
    """
    try:
        found = read_dicom(path) if os.path.isdir(path) else read_nifti(path, "all" if channels > 1 else "refuse")
    except BadVolume as error:
        raise UserError(f"{path}: {error}") from error
    if found.voxels.shape[-1] != channels:
        raise UserError(f"{path}: {found.voxels.shape[-1]} channels, this network takes {channels}")
    if not np.isfinite(found.voxels).all():
        raise UserError(f"{path}: holds values that are not finite")
    return found


def predicted(predictor: Any, volume: Volume, tile: int = 0, overlap: float = 0.5) -> UInt8[np.ndarray, "d h w"]:
    """The mask of a volume, on its own voxels.

    Args:
      predictor: a `cnn.predict.Predictor`.
      tile: voxels along each axis; 0 is the window that the network was trained with.
    """
    config = predictor.built.config.input
    chosen = [(name, options) for name, options in config.eval_transforms if name in _WHOLE]
    example = {"volume": volume.voxels, "spacing": np.array(volume.spacing, np.float32)}
    ready = transform_examples([example], build_transforms(chosen), Draws(0, np.zeros(1, np.int64)))["volume"][0]
    trained = dict(config.train_transforms).get("volume_patch", {}).get("size", ready.shape[:3])
    size = tuple(max(n, predictor.stride) for n in triple("tile", tile or trained))
    room = [max(n, m) for n, m in zip(ready.shape[:3], size, strict=True)]  # a small volume gets the dark of training
    padded = windowed({"volume": ready}, (0, 0, 0), room)["volume"]
    mask = predictor.tiled(padded, Tiling(size, overlap, multiple=predictor.stride))
    mask = mask[tuple(slice(n) for n in ready.shape[:3])]
    return resampled_mask(mask, [n / have for n, have in zip(volume.voxels.shape, mask.shape, strict=False)], "nearest")


def write_masks(
    predictor: Any, paths: Sequence[str], folder: str, tile: int, overlap: float, largest: bool
) -> Iterator[dict[str, Any]]:
    """Writes the mask of every volume as FOLDER/NAME.nii.gz; yields {path, shape, areas, ml, mask}, or {path, error}.

    Args:
      largest: keep the largest connected part of each class alone.

    Raises:
      UserError: the network gives no mask, or a path stands for nothing.
    """
    card = predictor.card
    if predictor.info.target_key != "mask":
        raise UserError(f"this network does {card['task']}, which has no answer for every voxel")
    taken: dict[str, int] = {}
    for path in list(inputs(paths)):
        try:
            volume = read(path, predictor.info.input_shape[-1])
            mask = predicted(predictor, volume, tile, overlap)
        except UserError as error:
            yield {"path": path, "error": str(error)}
            continue
        mask = largest_component(mask) if largest else mask
        stem = Path(os.path.abspath(path)).name.removesuffix(".gz").removesuffix(".nii")
        number = taken[stem] = taken.get(stem, 0) + 1
        target = os.path.join(folder, f"{stem}.nii.gz" if number == 1 else f"{stem}-{number}.nii.gz")
        write_nifti(target, mask, volume.affine, like="" if os.path.isdir(path) else path)
        voxel = float(np.prod(volume.spacing)) / 1000  # ml
        counts = np.bincount(mask.reshape(-1), minlength=len(card["classes"]))
        sizes = {name: round(int(counts[k]) * voxel, 4) for k, name in enumerate(card["classes"]) if k and counts[k]}
        yield {"path": path, **predictor.built.task.describe({"mask": mask}), "ml": sizes, "mask": target}
