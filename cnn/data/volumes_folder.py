"""Your own volumes in the layout of the Medical Segmentation Decathlon (Antonelli et al. 2022, arXiv 2106.05735).

    DIR/dataset.json    {"labels": {"0": "background", "1": "liver"}, "modality": {"0": "CT"},
                         "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, ...]}
    DIR/imagesTr/*.nii.gz    DIR/labelsTr/*.nii.gz

Only `training` has masks, so it is split: about 10 % of the cases, at least one, are 'validation' and as many 'test',
chosen by a hash of their names. Of images the headers are read once, of masks every voxel; a case that cannot be used
is left out with its reason. `cnn data check` reads the voxels of images, too.

In masks 255 is a voxel without a class, unless no mask holds anything but 0, 1 and 255: then it is class 1.
"""

import collections
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnn.data import Provider
from cnn.data.masks import labels_of, unnamed, white_is_1, whitened
from cnn.data.sources import Example
from cnn.data.verdicts import verdicts
from cnn.errors import UserError, printable
from cnn.features import IGNORE, SPACING, DatasetInfo, Feature
from cnn.files.checksums import digest_of_file
from cnn.files.regular import NOT_THERE
from cnn.files.volumes import FOUR_D, UNKNOWN, BadVolume, facts, read_mask, read_nifti

SPLITS = ("train", "validation", "test")
SHARE = 0.1  # of the cases for validation, and as many for the test
OTHER_SIZE, OTHER_PLACE = "mask of another size", "mask in another place"
NO_CLASS = "mask with values that no class has"
_NAMED = 3  # cases of one reason that a note names


class Case(NamedTuple):
    """One training pair; paths are relative to the folder, sizes from the headers (d h w), spacing in mm.

    `unit` is that of the image's file; `labels` are the values of the mask; `digest` is a hash of both files.
    """

    image: str
    label: str
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    reason: str = ""
    unit: str = ""
    labels: tuple[int, ...] = ()
    digest: str = ""


class VolumeSource:
    """Cases, read on access: `volume`, `mask`, `spacing`.

    Args:
      white: 255 stands for class 1 in masks.
    """

    def __init__(self, root: str, cases: Sequence[Case], channels: int, name: str, white: bool = False):
        self.root, self.cases, self.channels, self.name, self.white = root, tuple(cases), channels, name, white

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, i: int) -> Example:
        case = self.cases[i]
        found = []
        for path in (case.image, case.label):
            try:
                full = os.path.join(self.root, path)
                found.append(read_mask(full) if found else read_nifti(full, "all" if self.channels > 1 else "refuse"))
            except BadVolume as error:
                raise UserError(
                    f"{printable(full)}: {error}. It was fine when the folder was opened; put it back, or start again"
                ) from error
        image, mask = found
        corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in mask.voxels.shape))])
        far = np.linalg.norm((corners @ (mask.affine - image.affine).T)[:, :3], axis=1)
        if far.max() > min(image.spacing):
            what = f"the affine of {printable(case.label)} is {far.max():.3g} mm off"
            raise UserError(f"{printable(self.describe(i))}: {OTHER_PLACE}: {what}")
        ids = whitened(mask.voxels) if self.white else mask.voxels
        return {"volume": image.voxels, "mask": ids, "spacing": np.array(image.spacing, np.float32)}

    def get(self, indices: Sequence[int]) -> list[Example]:
        return [self[i] for i in indices]

    def describe(self, i: int) -> str:
        return os.path.join(self.root, self.cases[i].image)

    def files(self, i: int) -> tuple[list[str], str]:
        """See `cnn.data.sources.files_of`."""
        case = self.cases[i]
        return [os.path.join(self.root, file) for file in (case.image, case.label)], f"{self.white}{self.channels}"


class VolumesFolder(Provider):
    """A folder of volumes with masks.

    Raises:
      UserError: no dataset.json, or one that does not say what is needed.
    """

    splits = SPLITS

    def __init__(self, data_dir: str):
        self.root = os.path.abspath(os.path.expanduser(data_dir)) if data_dir else ""
        self._sources: dict[str, VolumeSource] = {}
        self._left_out: list[Case] = []
        self._notes: list[str] = []
        classes, self.modalities, self._listed = ("background", "foreground"), ("?",), []
        if self.root:
            classes, self.modalities, self._listed = read_description(self.root)
        free = (None, None, None)
        channels = len(self.modalities)
        self.info = DatasetInfo(
            "volumes_folder",
            {"volume": Feature.volume(*free, channels), "spacing": SPACING},
            {"mask": Feature.mask(*free)},
            classes,
        )

    def prepare(self) -> None:
        """Reads the headers, once.

        Raises:
          UserError: no case can be used.
        """
        if not self.root:
            raise UserError("dataset 'volumes_folder' needs --config.input.data_dir=DIR, the folder with dataset.json")
        if self._sources:
            return
        looked = looks(self.root, self._listed, len(self.modalities))
        self._left_out = [case for case in looked if case.reason]
        good = [case for case in looked if not case.reason]
        names = self.info.class_names
        white, note = white_is_1(printable(self.root), {case.label: set(case.labels) for case in good}, len(names))
        self._notes += [note] * bool(note)
        for case in list(good):
            unknown = unnamed(case.labels, len(names))
            if unknown:
                values = ", ".join(map(str, unknown[:5]))
                reason = f"{NO_CLASS} ({values}; dataset.json names 0 to {len(names) - 1})"
                self._left_out.append(case._replace(reason=reason))
                good.remove(case)
        if not good:
            raise UserError(f"{printable(self.root)}: no case can be used. {' '.join(self.problems())}")
        unitless = sum(case.unit == UNKNOWN for case in good)
        if unitless:
            self._notes.append(
                f"{printable(self.root)}: {unitless} of {len(good)} volumes do not name their unit of length; "
                "millimetres are assumed"
            )
        for split, cases in split_cases(good).items():
            channels = len(self.modalities)
            self._sources[split] = VolumeSource(self.root, cases, channels, f"volumes_folder '{split}'", white)

    @property
    def cases(self) -> list[Case]:
        """Every case that can be used, once prepared."""
        return [case for split in SPLITS for case in self._sources[split].cases]

    def problems(self) -> tuple[str, ...]:
        by_reason = collections.defaultdict(list)
        for case in self._left_out:
            by_reason[case.reason.split(" (")[0]].append(case)
        lines = []
        for reason, cases in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
            shown = ", ".join(f"{printable(case.image)}: {case.reason}" for case in cases[:_NAMED])
            more = ", ..." if len(cases) > _NAMED else ""
            lines.append(f"left out {len(cases)} of {len(self._listed)}: {reason} ({shown}{more})")
        return tuple(lines)

    def notes(self) -> tuple[str, ...]:
        known = collections.Counter(case.spacing for case in self.cases)
        if len(known) < 2:
            return (*self._notes, *self.problems())
        low, high = (tuple(edge(along) for along in zip(*known, strict=True)) for edge in (min, max))
        text = (
            f"{printable(self.root)}: {len(known)} different spacings in {sum(known.values())} volumes, from "
            f"{_mm(low)} to {_mm(high)} mm: resample them with volume_spacing; `cnn data plan` chooses one"
        )
        return (*self._notes, *self.problems(), text)

    def sizes(self) -> dict[str, int]:
        return {split: len(source) for split, source in self._sources.items()}

    def source(self, split: str) -> VolumeSource:
        return self._sources[split]

    def split_bytes(self, split: str) -> int | None:
        voxels = sum(int(np.prod(case.shape[:3])) for case in self._sources[split].cases)
        return voxels * (4 * len(self.modalities) + 1)

    def contents(self) -> Iterator[str]:
        for split in SPLITS:
            for case in self._sources[split].cases:
                yield f"{split}/{case.digest}/{case.image}"

    def contents_by_size(self) -> Iterator[str]:
        for split in SPLITS:
            for case in self._sources[split].cases:
                sizes = [os.path.getsize(os.path.join(self.root, file)) for file in (case.image, case.label)]
                yield f"{split}/{sizes[0]}/{sizes[1]}/{case.image}"


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in spacing)


def read_description(root: str) -> tuple[tuple[str, ...], tuple[str, ...], list[tuple[str, str]]]:
    """(class names, modalities, [(image, label)] of the training cases) as DIR/dataset.json says.

    Raises:
      UserError: it is not there, or does not say one of them.
    """
    path = os.path.join(root, "dataset.json")
    try:
        with open(path, encoding="utf-8") as file:
            said: Mapping[str, Any] = json.load(file)
        labels = {int(k): str(v) for k, v in said["labels"].items()}
        named = said.get("modality", {"0": "?"})
        modalities = tuple(str(named[key]) for key in sorted(named, key=int))
        cases = [(os.path.normpath(case["image"]), os.path.normpath(case["label"])) for case in said["training"]]
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; it names the labels and the training cases") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not in the layout of the Medical Segmentation Decathlon: it needs 'labels' "
            f"{{'0': 'background', ...}} and 'training' [{{'image': ..., 'label': ...}}] "
            f"({type(error).__name__}: {error})"
        ) from error
    if sorted(labels) != list(range(len(labels))) or not 2 <= len(labels) <= IGNORE:
        raise UserError(f"{path}: 'labels' must be 0, 1, 2, ... with the background first, got {sorted(labels)}")
    if not cases:
        raise UserError(f"{path}: 'training' is empty")
    return tuple(labels[k] for k in range(len(labels))), modalities, cases


def looks(root: str, pairs: Sequence[tuple[str, str]], channels: int) -> list[Case]:
    """A case per pair of image and mask, with what their files hold, or with the reason why it cannot be used."""
    images = verdicts(sorted({image for image, _ in pairs}), root, "volumes", look_at_volume)
    masks = verdicts(sorted({label for _, label in pairs}), root, "volume masks", look_at_mask)
    return [_case(image, label, images[image], masks[label], channels) for image, label in pairs]


def look_at_volume(path: str) -> tuple[str, list[int], list[float], str, str]:
    """(hash, shape, spacing, unit, '') of a file that can be used, else the reason at the end."""
    try:
        shape, spacing, unit = facts(path)
        return digest_of_file(path), list(shape), list(spacing), unit, ""
    except (BadVolume, OSError) as error:
        return "", [], [], "", str(error)


def look_at_mask(path: str) -> tuple[str, list[int], list[int], str]:
    """(hash, shape, values, '') of a mask that can be used, else the reason at the end."""
    try:
        shape = facts(path).shape
        if len(shape) == 4:
            raise BadVolume(f"{FOUR_D} ({_by(shape)})")
        return digest_of_file(path), list(shape), labels_of(read_mask(path).voxels), ""
    except (BadVolume, OSError) as error:
        return "", [], [], str(error)


def _case(image: str, label: str, volume: Sequence[Any], mask: Sequence[Any], channels: int) -> Case:
    mark, shape, spacing, unit, reason = volume
    other, size, labels, reason_of_mask = mask
    if reason:
        return Case(image, label, reason="image missing" if reason == NOT_THERE else f"image {reason}")
    if len(shape) == 4 and channels == 1:
        return Case(image, label, reason=f"image {FOUR_D} ({_by(shape)})")
    if (shape[3] if len(shape) == 4 else 1) != channels:
        return Case(image, label, reason=f"not {channels} channels ({_by(shape)})")
    if reason_of_mask:
        return Case(image, label, reason="mask missing" if reason_of_mask == NOT_THERE else f"mask {reason_of_mask}")
    if size != shape[:3]:
        return Case(image, label, reason=f"{OTHER_SIZE} ({_by(size)}, the image {_by(shape[:3])})")
    return Case(image, label, tuple(shape), tuple(spacing), "", unit, tuple(labels), mark + other)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def split_cases(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """{split: cases}; the smallest hashes of the names are the test, then the validation. Below 3 cases all train."""

    def mark(case: Case) -> bytes:
        return hashlib.blake2b(case.image.encode(errors="surrogateescape"), digest_size=8).digest()

    ordered = sorted(cases, key=mark)
    held = max(1, round(SHARE * len(ordered))) if len(ordered) >= 3 else 0
    return {"train": ordered[2 * held :], "validation": ordered[held : 2 * held], "test": ordered[:held]}


def volumes_folder(data_dir: str = "") -> VolumesFolder:
    """The data set 'volumes_folder'."""
    return VolumesFolder(data_dir)
