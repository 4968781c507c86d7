"""Your own images with masks: DIR/{images,masks}/*, or DIR/{train,validation,test}/{images,masks}/*.

A mask is a PNG of class ids (grey or with a palette) with its image's name: images/a/1.jpg and masks/a/1.png. 255 is
a pixel without a class, unless there is nothing else but 0: then it is the foreground. DIR/classes.txt names the
classes, one a line, the background first; without it they are numbered. Splits, absent ones and the cache of what was
found are those of the image folder. Pairs that cannot be used are left out, and counted by `cnn data check`.
"""

import collections
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from cnn.data import Provider
from cnn.data.folder import SPLITS, check, fraction, split_of
from cnn.data.sources import ArraySource, Example, in_memory
from cnn.errors import UserError
from cnn.features import IGNORE, DatasetInfo, Feature
from cnn.files.images import DAMAGED, EMPTY, UNREADABLE, BadImage, decode_image
from cnn.files.walk import folders, walk

UNNAMED = 40  # classes up to which numbers will do for names; more labels are rather values of a grey picture
_SHOWN = 3
NOT_PNG, COLOURED, DEEP = "no PNG", "a colour picture, not class ids", "class ids above 255"


def decode_mask(path: str) -> UInt8[np.ndarray, "h w"]:
    """The class ids of a mask.

    Raises:
      BadImage: with the reason.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if not os.path.getsize(path):
            raise BadImage(EMPTY)
        with Image.open(path, formats=("PNG",)) as file:
            mask = np.asarray(file)  # of a palette its indices
    except UnidentifiedImageError as error:
        raise BadImage(NOT_PNG) from error
    except BadImage:
        raise
    except OSError as error:
        raise BadImage(DAMAGED if os.path.isfile(path) else UNREADABLE) from error
    except Exception as error:  # damaged files make the decoder raise many different things
        raise BadImage(DAMAGED) from error
    if mask.ndim == 3:
        if mask.shape[2] > 2 and not (mask[..., 0] == mask[..., 1]).all() or not (mask[..., 0] == mask[..., -1]).all():
            raise BadImage(COLOURED)
        mask = mask[..., 0]
    if mask.max(initial=0) > IGNORE:
        raise BadImage(DEEP)
    return mask.astype(np.uint8)


def look_at_mask(path: str) -> tuple[int, int, str]:
    """(height, width, its labels as text) of a mask that can be used, else (0, 0, reason)."""
    try:
        mask = decode_mask(path)
    except BadImage as error:
        return 0, 0, str(error)
    return (*mask.shape, " ".join(map(str, np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256)))))


class PairSource:
    """Images with their masks, decoded on access.

    Args:
      pairs: paths of image and mask, relative to the root.
      white_is_1: 255 stands for class 1.
    """

    def __init__(self, root: str, pairs: Sequence[tuple[str, str]], white_is_1: bool, name: str):
        self.root, self.pairs, self.white_is_1, self.name = root, tuple(pairs), white_is_1, name

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> Example:
        image, mask = (
            self._read(decode, path) for decode, path in zip((decode_image, decode_mask), self.pairs[i], strict=True)
        )
        return {"image": image, "mask": np.where(mask == IGNORE, np.uint8(1), mask) if self.white_is_1 else mask}

    def _read(self, decode: Callable[[str], np.ndarray], file: str) -> np.ndarray:
        path = os.path.join(self.root, file)
        try:
            return decode(path)
        except BadImage as error:
            raise UserError(
                f"{path}: {error}. It was fine when the folder was checked; put it back, or start again to check the "
                "folder anew"
            ) from error

    def get(self, indices: Sequence[int]) -> list[Example]:
        return [self[i] for i in indices]

    def describe(self, i: int) -> str:
        return os.path.join(self.root, self.pairs[i][0])


class MasksFolder(Provider):
    """Pairs of image and mask files.

    Raises:
      UserError: no such folder, or another layout.
    """

    def __init__(self, data_dir: str):
        self.root = os.path.abspath(os.path.expanduser(data_dir)) if data_dir else ""
        self.splits = ("train", "validation", "test")
        self._sources: dict[str, PairSource] = {}
        self._notes: list[str] = []
        self._problems: list[str] = []
        self._facts: dict[str, tuple[int, int, int, str]] = {}  # of each file: bytes, height, width, labels
        self._arrays: dict[str, ArraySource] = {}
        self._places = find_places(self.root) if self.root else {}
        names = read_names(self.root) if self.root else ()
        self._named = bool(names)
        self.info = self._describe((None, None), names or ("background", "foreground"))

    def _describe(self, size: tuple[int | None, int | None], names: tuple[str, ...]) -> DatasetInfo:
        return DatasetInfo("masks_folder", {"image": Feature.image(*size, 3)}, {"mask": Feature.mask(*size)}, names)

    def prepare(self) -> None:
        """Finds and checks the files, once.

        Raises:
          UserError: no pair can be used, or the labels need names.
        """
        if not self.root:
            raise UserError("dataset 'masks_folder' needs --config.input.data_dir=DIR, with DIR/images and DIR/masks")
        if self._sources:
            return
        left_out: dict[str, list[str]] = collections.defaultdict(list)
        pairs = [pair for split, place in self._places.items() for pair in self._pairs(split, place, left_out)]
        found = check([image for image, _, _ in pairs], self.root)
        found_masks = check([mask for _, mask, _ in pairs], self.root, look_at_mask)
        self._facts = found | found_masks
        good = []
        for image, mask, split in pairs:
            _, height, width, reason = found[image]
            if reason:
                left_out[f"images: {reason}"].append(image)
            elif not found_masks[mask][1]:
                left_out[f"masks: {found_masks[mask][3]}"].append(mask)
            elif found_masks[mask][1:3] != (height, width):
                left_out["masks of another size than their image"].append(mask)
            else:
                good.append((image, mask, split))
        labels = {int(label) for _, mask, _ in good for label in found_masks[mask][3].split()}
        white_is_1 = IGNORE in labels and labels <= {0, IGNORE}
        if white_is_1:
            self._notes.append(f"{self.root}: masks hold only 0 and 255, which is read as class 1")
        names = self._names(labels - {IGNORE} | ({1} if white_is_1 else set()))
        known = {str(k) for k in (*range(len(names)), IGNORE)}
        for pair in list(good):
            if not set(found_masks[pair[1]][3].split()) <= known:
                left_out[f"masks with labels above {len(names) - 1}"].append(pair[1])
                good.remove(pair)
        self._tell(left_out, len(pairs))
        if not good:
            raise UserError(f"{self.root}: no image with a mask can be used. {' '.join(self._problems)}")
        for split in self.splits:
            chosen = sorted(((i, m) for i, m, s in good if s == split), key=lambda pair: fraction(pair[0], "order"))
            self._sources[split] = PairSource(self.root, chosen, white_is_1, f"masks_folder '{split}'")
            if "" not in self._places.values() and split not in self._places:
                self._notes.append(f"{self.root} has no '{split}': {len(chosen)} images of 'train' are taken for it")
        if not len(self._sources["train"]):
            raise UserError(f"{self.root}: no training image with a mask can be used. {' '.join(self._problems)}")
        sizes = {found[image][1:3] for image, _, _ in good}
        self.info = self._describe(sizes.pop() if len(sizes) == 1 else (None, None), names)

    def _pairs(
        self, split: str, place: str, left_out: dict[str, list[str]]
    ) -> Iterator[tuple[str, str, str]]:
        """(image, mask, split) of every image that has a mask of its name."""
        by_stem: dict[str, dict[str, str]] = {"images": {}, "masks": {}}
        for kind, files in by_stem.items():
            folder = os.path.join(place, kind)
            for file in walk(self.root, folder):
                stem = os.path.splitext(os.path.relpath(file, folder))[0]
                if stem in files:
                    left_out[f"{kind} with the name of another one"].append(file)
                else:
                    files[stem] = file
        absent = [name for name in self.splits if name not in self._places] if place else self.splits
        for stem, image in by_stem["images"].items():
            if stem in by_stem["masks"]:
                drawn = split_of(image) if split == "train" else split
                yield image, by_stem["masks"][stem], drawn if drawn in absent else split
            else:
                left_out["images without a mask"].append(image)
        left_out["masks without an image"] += [by_stem["masks"][s] for s in by_stem["masks"].keys() - by_stem["images"]]

    def _names(self, labels: set[int]) -> tuple[str, ...]:
        """The classes: those of classes.txt, else one per label."""
        if self._named:
            return self.info.class_names
        most = max(labels, default=0)
        if most >= UNNAMED:
            raise UserError(
                f"{self.root}: masks hold labels up to {most}; write {os.path.join(self.root, 'classes.txt')} with a "
                "class a line, the background first, or save class ids in place of grey values"
            )
        if most <= 1:
            return ("background", "foreground")
        return ("background", *(f"class{k}" for k in range(1, most + 1)))

    def _tell(self, left_out: dict[str, list[str]], pairs: int) -> None:
        for reason, files in sorted(left_out.items(), key=lambda item: -len(item[1])):
            if files:
                files = sorted(files)
                shown = ", ".join(files[:_SHOWN]) + (", ..." if len(files) > _SHOWN else "")
                self._problems.append(f"{self.root}: left out {len(files)} {reason} ({shown})")

    def contents(self) -> Iterator[str]:
        for split, source in self._sources.items():
            for image, mask in source.pairs:
                yield f"{split}/{self._facts[image][0]}/{self._facts[mask][0]}/{image}"

    def notes(self) -> tuple[str, ...]:
        return (*self._notes, *self._problems)

    def problems(self) -> tuple[str, ...]:
        return tuple(self._problems)

    def sizes(self) -> dict[str, int]:
        return {split: len(source) for split, source in self._sources.items()}

    def source(self, split: str) -> PairSource:
        return self._sources[split]

    def arrays(self, split: str) -> dict[str, np.ndarray]:
        if split not in self._arrays:
            source = self._sources[split]
            if not len(source):
                h, w, _ = (size or 0 for size in self.info.input_shape)
                return {"image": np.zeros((0, h, w, 3), np.uint8), "mask": np.zeros((0, h, w), np.uint8)}
            self._arrays[split] = in_memory(source)
        return self._arrays[split].arrays

    def split_bytes(self, split: str) -> int | None:
        sizes = (self._facts[image][1:3] for image, _ in self._sources[split].pairs)
        return sum(4 * height * width for height, width in sizes)


def find_places(root: str) -> dict[str, str]:
    """{split: its folder}; {'train': ''} where images and masks lie in `root` itself."""
    if not os.path.isdir(root):
        what = "is a file, not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"the folder of images and masks {root} {what}; set --config.input.data_dir=DIR")
    names = folders(root)
    if {"images", "masks"} <= set(names):
        return {"train": ""}
    result: dict[str, str] = {}
    for name in names:
        if {"images", "masks"} <= set(folders(os.path.join(root, name))) and name in SPLITS:
            if SPLITS[name] in result:
                raise UserError(f"{root} has both '{result[SPLITS[name]]}' and '{name}'; keep one")
            result[SPLITS[name]] = name
    if "train" not in result:
        raise UserError(f"{root} holds neither images and masks nor train/images and train/masks")
    return {split: result[split] for split in ("train", "validation", "test") if split in result}


def read_names(root: str) -> tuple[str, ...]:
    """The lines of classes.txt, () without it.

    Raises:
      UserError: fewer than two, or one of them twice.
    """
    path = os.path.join(root, "classes.txt")
    if not os.path.isfile(path):
        return ()
    with open(path, encoding="utf-8", errors="replace") as file:
        names = tuple(line.strip() for line in file if line.strip())
    if not 2 <= len(set(names)) == len(names) <= IGNORE:
        raise UserError(f"{path} must name 2 to {IGNORE} different classes, one a line, the background first")
    return names


def masks_folder(data_dir: str = "") -> MasksFolder:
    """The data set 'masks_folder'."""
    return MasksFolder(data_dir)
