"""Your own images: DIR/CLASS/* or DIR/{train,validation,test}/CLASS/*.

DIR/CLASS/* is split 80/10/10 by a hash of each file's path. Where DIR has `train` but not both of the
others, each absent one is 10 % of `train`, taken out of it in the same way. Usual other names of splits are known, in
upper and lower case: Training, val, dev, TEST.

Every file is decoded once up front, so nothing breaks in epoch 3. The verdicts are kept in the cache,
by path, inode, size and time of change, never in your folder.
"""

import collections
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int32

from cnn.data import Provider
from cnn.data.sources import ArraySource, Example, in_memory
from cnn.data.split_names import check_no_splits, found_splits, split_of_folder
from cnn.data.verdicts import verdicts
from cnn.errors import UserError, printable
from cnn.features import LABEL, DatasetInfo, Feature
from cnn.files.images import BadImage, Seen, decode_image, inspect
from cnn.files.walk import entries, folders, walk

TRAIN, VALIDATION = 0.8, 0.1  # of DIR/CLASS/*; the rest is 'test'
_SHOWN = 3  # files of one reason that a note names


class FolderSource:
    """Image files with their labels, decoded on access."""

    def __init__(self, root: str, files: Sequence[str], labels: Int32[np.ndarray, " n"], name: str):
        self.root, self.paths, self.labels, self.name = root, tuple(files), labels, name

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Example:
        try:
            image = decode_image(self.describe(i))
        except BadImage as error:
            raise UserError(
                f"{self.describe(i)}: {error}. It was fine when the folder was checked; put it back, or "
                "start again to check the folder anew"
            ) from error
        return {"image": image, "label": self.labels[i]}

    def get(self, indices: Sequence[int]) -> list[Example]:
        return [self[i] for i in indices]

    def describe(self, i: int) -> str:
        return os.path.join(self.root, self.paths[i])

    def files(self, i: int) -> tuple[list[str], str]:
        """See `cnn.data.sources.files_of`."""
        return [self.describe(i)], str(self.labels[i])


class Folder(Provider):
    """Image files in folders named by class.

    Raises:
      UserError: no such folder, no classes, only one class, or classes that differ between splits.
    """

    def __init__(self, data_dir: str):
        self.root = os.path.abspath(os.path.expanduser(data_dir)) if data_dir else ""
        self.splits = ("train", "validation", "test")
        self._sources: dict[str, FolderSource] = {}
        self._notes: list[str] = []
        self._pixels: dict[str, int] = {}
        self._arrays: dict[str, ArraySource] = {}
        self._digests: dict[str, str] = {}  # of each file
        classes = tuple(f"class{i}" for i in range(10))  # for fake data without a folder
        if self.root:
            self._split_folders = _find_splits(self.root)
            self._class_folders = _find_classes(self.root, self._split_folders)
            classes = tuple(map(printable, self._class_folders))
        self.info = DatasetInfo("folder", {"image": Feature.image(None, None, 3)}, {"label": LABEL}, classes)

    def prepare(self) -> None:
        """Finds and checks the files, once.

        Raises:
          UserError: nothing readable in the folder or in one of its classes.
        """
        if not self.root:
            raise UserError("dataset 'folder' needs --config.input.data_dir=DIR, the folder of images")
        if self._sources:
            return
        found = list(self._files())
        seen = {
            file: Seen(*values)
            for file, values in verdicts([file for file, _, _ in found], self.root, "images", inspect).items()
        }
        reasons = {file: seen[file].reason for file, _, _ in found}
        good = [entry for entry in found if not reasons[entry[0]]]
        self._digests = {file: seen[file].digest for file, _, _ in good}
        self._report({file: reason for file, reason in reasons.items() if reason}, len(found))
        present = {label for _, label, _ in good}
        for label, name in enumerate(self.info.class_names):
            if label not in present:
                raise UserError(f"{self.root}: class '{name}' has no readable image. {self._summary()}")
        for split in self.splits:
            chosen = sorted((e for e in good if e[2] == split), key=lambda e: fraction(e[0], "order"))
            labels = np.array([label for _, label, _ in chosen], np.int32)
            files = [file for file, _, _ in chosen]
            self._sources[split] = FolderSource(self.root, files, labels, f"folder '{split}'")
            self._pixels[split] = sum(seen[file].height * seen[file].width for file in files)
            if self._split_folders and split not in self._split_folders:
                self._notes.append(
                    f"{self.root} has no '{split}': {len(files)} images of 'train' are taken for it"
                )
        missing = present - set(self._sources["train"].labels.tolist())
        if missing:
            names = ", ".join(self.info.class_names[label] for label in sorted(missing))
            self._notes.append(f"{self.root}: no training image of {names}")
        shapes = {(seen[file].height, seen[file].width) for file, _, _ in good}
        if len(shapes) == 1:
            self.info = DatasetInfo(
                "folder", {"image": Feature.image(*shapes.pop(), 3)}, {"label": LABEL}, self.info.class_names
            )

    def _files(self) -> Iterator[tuple[str, int, str]]:
        """(path relative to the root with '/', label, split)."""
        absent = [split for split in self.splits if split not in self._split_folders]
        for split, folder in (self._split_folders or {"train": ""}).items():
            for label, name in enumerate(self._class_folders):
                for file in walk(self.root, os.path.join(folder, name)):
                    drawn = split_of(file) if split == "train" else split
                    yield file, label, drawn if drawn in absent else split

    def _report(self, left_out: dict[str, str], total: int) -> None:
        parts = reasons_in_short(left_out)
        if parts:
            self._notes.append(f"{self.root}: left out {len(left_out)} of {total}: " + "; ".join(parts))
        loose = [f for f in entries(self.root) if os.path.isfile(os.path.join(self.root, f))]
        if loose:
            self._notes.append(f"{self.root}: {len(loose)} files outside of class folders are not used")

    def _summary(self) -> str:
        return " ".join(self._notes)

    def contents(self) -> Iterator[str]:
        for split in self.splits:
            source = self._sources[split]
            for file, label in zip(source.paths, source.labels.tolist(), strict=True):
                yield f"{split}/{label}/{self._digests[file]}/{file}"

    def contents_by_size(self) -> Iterator[str]:
        for split in self.splits:
            source = self._sources[split]
            for file, label in zip(source.paths, source.labels.tolist(), strict=True):
                yield f"{split}/{label}/{os.path.getsize(os.path.join(self.root, file))}/{file}"

    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def sizes(self) -> dict[str, int]:
        return {split: len(source) for split, source in self._sources.items()}

    def source(self, split: str) -> FolderSource:
        return self._sources[split]

    def arrays(self, split: str) -> dict[str, np.ndarray]:
        if split not in self._arrays:
            source = self._sources[split]
            if not len(source):
                h, w, c = (size or 0 for size in self.info.input_shape)
                return {"image": np.zeros((0, h, w, c), np.uint8), "label": source.labels}
            self._arrays[split] = in_memory(source)
        return self._arrays[split].arrays

    def split_bytes(self, split: str) -> int | None:
        return 3 * self._pixels[split]


def _find_splits(root: str) -> dict[str, str]:
    """{split: its folder}, empty where the folder holds classes directly."""
    if not os.path.isdir(root):
        what = "is a file, not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"the image folder {root} {what}; set --config.input.data_dir=DIR")
    names = folders(root)
    if not names:
        raise UserError(f"{root} holds no folders; expected DIR/CLASS/* or DIR/train/CLASS/*")
    holding = [name for name in names if folders(os.path.join(root, name))]
    found = found_splits(root, holding, "folders of classes")
    if "train" not in found:
        return {}
    for name in names:
        if not split_of_folder(name):
            raise UserError(
                f"{root} has '{found['train']}', but '{name}' beside it is no split; known are train, validation (val, "
                "valid, dev) and test"
            )
    return found


def _find_classes(root: str, splits: dict[str, str]) -> tuple[str, ...]:
    by_split = {name: folders(os.path.join(root, name)) for name in splits.values()}
    classes = by_split[splits["train"]] if splits else folders(root)
    for name, found in by_split.items():
        if set(found) != set(classes):
            only = sorted(set(found) ^ set(classes))
            raise UserError(
                f"{root}: '{name}' and '{splits['train']}' have different classes; in one only: "
                f"{', '.join(only[:5])}. A class without images in a split is an empty folder there"
            )
    if not splits:
        check_no_splits(root, classes)
    if len(classes) < 2:
        raise UserError(f"{root} holds only the class '{classes[0]}'; classification needs two or more")
    return tuple(classes)


def fraction(file: str, salt: str) -> float:
    """A number in [0, 1) that belongs to the file's name."""
    digest = hashlib.blake2b(f"{salt}:{file}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(file: str) -> str:
    """The split of a file by its name alone, so that new files never move old ones."""
    value = fraction(file, "split")
    return "train" if value < TRAIN else "validation" if value < TRAIN + VALIDATION else "test"


def reasons_in_short(reasons: Mapping[str, str]) -> list[str]:
    """'12 truncated or damaged (a.png, b.png, c.png, ...)' of {file: reason}; most frequent first."""
    by_reason = collections.defaultdict(list)
    for file, reason in reasons.items():
        by_reason[reason.split(" (")[0]].append(file)
    lines = []
    for reason, files in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(map(printable, files[:_SHOWN])) + (", ..." if len(files) > _SHOWN else "")
        lines.append(f"{len(files)} {reason} ({shown})")
    return lines


def folder(data_dir: str = "") -> Folder:
    """The data set 'folder'."""
    return Folder(data_dir)
