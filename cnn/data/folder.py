"""Your own images: DIR/CLASS/* or DIR/{train,validation,test}/CLASS/*.

DIR/CLASS/* is split 80/10/10 by a hash of each file's path. Where DIR has `train` but not both of the
others, each absent one is 10 % of `train`, taken out of it in the same way.

Every file is decoded once up front, so nothing breaks in epoch 3. The verdicts are kept in the cache,
by path, size and time of change, never in your folder.
"""

import collections
import concurrent.futures
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int32

from cnn import paths
from cnn.data import Provider
from cnn.data.sources import ArraySource, Example, in_memory
from cnn.errors import UserError
from cnn.features import LABEL, DatasetInfo, Feature
from cnn.files.images import BadImage, decode_image, inspect
from cnn.files.walk import entries, folders, walk

SPLITS = {"train": "train", "val": "validation", "valid": "validation"}
SPLITS |= {"validation": "validation", "test": "test"}
TRAIN, VALIDATION = 0.8, 0.1  # of DIR/CLASS/*; the rest is 'test'
_SAVE_EVERY = 5000


class FolderSource:
    """Image files with their labels, decoded on access."""

    def __init__(self, root: str, files: Sequence[str], labels: Int32[np.ndarray, " n"], name: str):
        self.root, self.files, self.labels, self.name = root, tuple(files), labels, name

    def __len__(self) -> int:
        return len(self.files)

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
        return os.path.join(self.root, self.files[i])


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
        self._bytes: dict[str, int] = {}  # of each file
        classes = tuple(f"class{i}" for i in range(10))  # for fake data without a folder
        if self.root:
            self._split_folders = _find_splits(self.root)
            classes = _find_classes(self.root, self._split_folders)
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
        verdicts = check([file for file, _, _ in found], self.root)
        reasons = {file: verdicts[file][3] for file, _, _ in found}
        good = [entry for entry in found if not reasons[entry[0]]]
        self._bytes = {file: verdicts[file][0] for file, _, _ in good}
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
            self._pixels[split] = sum(verdicts[file][1] * verdicts[file][2] for file in files)
            if self._split_folders and split not in self._split_folders:
                self._notes.append(
                    f"{self.root} has no '{split}': {len(files)} images of 'train' are taken for it"
                )
        missing = present - set(self._sources["train"].labels.tolist())
        if missing:
            names = ", ".join(self.info.class_names[label] for label in sorted(missing))
            self._notes.append(f"{self.root}: no training image of {names}")
        shapes = {tuple(verdicts[file][1:3]) for file, _, _ in good}
        if len(shapes) == 1:
            self.info = DatasetInfo(
                "folder", {"image": Feature.image(*shapes.pop(), 3)}, {"label": LABEL}, self.info.class_names
            )

    def _files(self) -> Iterator[tuple[str, int, str]]:
        """(path relative to the root with '/', label, split)."""
        absent = [split for split in self.splits if split not in self._split_folders]
        for split, folder in (self._split_folders or {"train": ""}).items():
            for label, name in enumerate(self.info.class_names):
                for file in walk(self.root, os.path.join(folder, name)):
                    drawn = split_of(file) if split == "train" else split
                    yield file, label, drawn if drawn in absent else split

    def _report(self, left_out: dict[str, str], total: int) -> None:
        by_reason = collections.defaultdict(list)
        for file, reason in left_out.items():
            by_reason[reason].append(file)
        parts = []
        for reason, files in sorted(by_reason.items(), key=lambda item: -len(item[1])):
            shown = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
            parts.append(f"{len(files)} {reason} ({shown})")
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
            for file, label in zip(source.files, source.labels.tolist(), strict=True):
                yield f"{split}/{label}/{self._bytes[file]}/{file}"

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
    if "train" not in names or not folders(os.path.join(root, "train")):
        return {}
    result: dict[str, str] = {}
    for name in names:
        if name not in SPLITS:
            raise UserError(f"{root} has 'train', but '{name}' beside it is none of {', '.join(SPLITS)}")
        if SPLITS[name] in result:
            raise UserError(f"{root} has both '{result[SPLITS[name]]}' and '{name}'; keep one")
        result[SPLITS[name]] = name
    return {split: result[split] for split in ("train", "validation", "test") if split in result}


def _find_classes(root: str, splits: dict[str, str]) -> tuple[str, ...]:
    by_split = {name: folders(os.path.join(root, name)) for name in splits.values()}
    classes = by_split[splits["train"]] if splits else folders(root)
    for name, found in by_split.items():
        if set(found) != set(classes):
            only = sorted(set(found) ^ set(classes))
            raise UserError(
                f"{root}: '{name}' and 'train' have different classes; in one only: {', '.join(only[:5])}"
            )
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


def check(
    files: Sequence[str], root: str, look: Callable[[str], tuple[int, int, str]] | None = None
) -> dict[str, tuple[int, int, int, str]]:
    """(bytes, height, width, reason) per file; the last three are what `look` says of its path, `images.inspect`
    where none is given. Only new and changed ones are decoded.
    """
    kind = f"{look.__name__}:{root}" if look else root
    look = look or inspect
    digest = hashlib.blake2b(kind.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    kept_in = paths.cache_dir() / "folders" / f"{digest}.json"
    try:
        kept = json.loads(kept_in.read_text())
        kept = {file: line for file, line in kept.items() if len(line) == 5}
    except (OSError, ValueError, AttributeError, TypeError):
        kept = {}

    marks = {}
    for file in files:
        try:
            stat = os.stat(os.path.join(root, file))
            marks[file] = [stat.st_size, stat.st_mtime_ns]
        except OSError:
            marks[file] = [-1, -1]
    todo = [file for file in files if file not in kept or kept[file][:2] != marks[file]]

    def save() -> None:
        try:
            kept_in.parent.mkdir(parents=True, exist_ok=True)
            part = kept_in.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(kept))
            part.replace(kept_in)
        except OSError:
            pass  # without a cache it is checked again next time

    began = shown = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda file: look(os.path.join(root, file)), todo)
        for i, (file, result) in enumerate(zip(todo, results, strict=True), 1):
            kept[file] = [*marks[file], *result]
            if i % _SAVE_EVERY == 0:
                save()
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                rate = i / (shown - began)
                print(f"{root}: checked {i} of {len(todo)} files, {rate:.0f}/s", file=sys.stderr)
    if todo:
        kept = {file: kept[file] for file in files}
        save()
    return {file: (kept[file][0], *kept[file][2:]) for file in files}


def folder(data_dir: str = "") -> Folder:
    """The data set 'folder'."""
    return Folder(data_dir)
