"""Your own images with masks: DIR/{images,masks}/*, or DIR/{train,validation,test}/{images,masks}/*.

A mask is a PNG of class ids (grey or with a palette) with its image's name: images/a/1.jpg and masks/a/1.png. 255 is
a pixel without a class, unless no mask holds anything but 0, 1 and 255: then it is the foreground. Where the palettes
of masks differ in order, colours decide. DIR/classes.txt names the classes, one a line, the background first; without
it they are numbered. Splits, absent ones and the cache of what was found are those of the image folder. Pairs that
cannot be used are left out, and counted by `cnn data check`.
"""

import collections
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from cnn.data import Provider
from cnn.data.folder import fraction, split_of
from cnn.data.masks import unnamed, white_is_1, whitened
from cnn.data.sources import ArraySource, Example, in_memory
from cnn.data.split_names import found_splits
from cnn.data.verdicts import verdicts
from cnn.errors import UserError
from cnn.features import IGNORE, DatasetInfo, Feature
from cnn.files.images import BadImage, Seen, decode_image, inspect
from cnn.files.masks import SeenMask, agreed_colours, decode_mask, look_at_mask
from cnn.files.walk import folders, walk

UNNAMED = 40  # classes up to which numbers will do for names; more labels are rather values of a grey picture
_SHOWN = 3
OTHER_SIZE = "masks of another size than their image"


class PairSource:
    """Images with their masks, decoded on access.

    Args:
      pairs: paths of image and mask, relative to the root.
      white: 255 stands for class 1.
      colours: what decides in masks with palettes, as `decode_mask` takes it.
    """

    def __init__(
        self, root: str, pairs: Sequence[tuple[str, str]], white: bool, colours: Mapping[str, int], name: str
    ):
        self.root, self.pairs, self.white, self.colours, self.name = root, tuple(pairs), white, dict(colours), name

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> Example:
        image, mask = self.pairs[i]
        ids = self._read(lambda path: decode_mask(path, self.colours), mask)
        return {"image": self._read(decode_image, image), "mask": whitened(ids) if self.white else ids}

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

    def files(self, i: int) -> tuple[list[str], str]:
        """See `cnn.data.sources.files_of`."""
        return [os.path.join(self.root, file) for file in self.pairs[i]], f"{self.white}{sorted(self.colours.items())}"


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
        self._images: dict[str, Seen] = {}
        self._masks: dict[str, SeenMask] = {}
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
        looked = verdicts([image for image, _, _ in pairs], self.root, "images", inspect)
        self._images = {file: Seen(*values) for file, values in looked.items()}
        looked = verdicts([mask for _, mask, _ in pairs], self.root, "masks", look_at_mask)
        self._masks = {file: SeenMask(*values) for file, values in looked.items()}
        good = []
        for image, mask, split in pairs:
            size, size_of_mask = self._images[image][:2], self._masks[mask][:2]
            if self._images[image].reason:
                left_out[f"images: {self._images[image].reason}"].append(image)
            elif not size_of_mask[0]:
                left_out[f"masks: {self._masks[mask].text}"].append(mask)
            elif size_of_mask != size:
                turned = "; turned by EXIF" * (size_of_mask == size[::-1] and _is_turned(self.root, image))
                detail = f"{_by(size_of_mask)}, the image {_by(size)}{turned}"
                left_out[f"{OTHER_SIZE} ({detail})"].append(mask)
            else:
                good.append((image, mask, split))
        colours = self._colours([mask for _, mask, _ in good])
        labels = {mask: _labels(self._masks[mask], colours) for _, mask, _ in good}
        white, note = white_is_1(self.root, labels, len(self.info.class_names) if self._named else None)
        self._notes += [note] * bool(note)
        present = set().union(*labels.values()) - {IGNORE} | ({1} if white else set())
        names = self._names(present)
        for pair in list(good):
            if unnamed(labels[pair[1]], len(names)):
                left_out[f"masks with labels above {len(names) - 1}"].append(pair[1])
                good.remove(pair)
        self._tell(left_out)
        if not good:
            raise UserError(f"{self.root}: no image with a mask can be used. {' '.join(self._problems)}")
        for split in self.splits:
            chosen = sorted(((i, m) for i, m, s in good if s == split), key=lambda pair: fraction(pair[0], "order"))
            self._sources[split] = PairSource(self.root, chosen, white, colours, f"masks_folder '{split}'")
            if "" not in self._places.values() and split not in self._places:
                self._notes.append(f"{self.root} has no '{split}': {len(chosen)} images of 'train' are taken for it")
        if not len(self._sources["train"]):
            raise UserError(f"{self.root}: no training image with a mask can be used. {' '.join(self._problems)}")
        sizes = {self._images[image][:2] for image, _, _ in good}
        self.info = self._describe(sizes.pop() if len(sizes) == 1 else (None, None), names)

    def _colours(self, masks: Sequence[str]) -> dict[str, int]:
        """{colour: class id} where palettes differ in order, else {}."""
        palettes = {mask: self._masks[mask].palette for mask in masks if self._masks[mask].palette}
        try:
            colours, odd = agreed_colours(palettes)
        except ValueError as error:
            raise UserError(
                f"{self.root}: palettes of masks disagree on the order of their colours: {error}; save class ids as "
                "grey values, or all masks with one palette"
            ) from error
        if odd:
            shown = ", ".join(odd[:_SHOWN]) + ", ..." * (len(odd) > _SHOWN)
            what = "masks have a palette of another order"
            self._notes.append(f"{self.root}: {len(odd)} {what}, colours decide ({shown})")
        return colours

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

    def _tell(self, left_out: dict[str, list[str]]) -> None:
        named: dict[str, list[str]] = collections.defaultdict(list)
        for reason, files in left_out.items():
            short, _, detail = reason.removesuffix(")").partition(" (")
            named[short] += [f"{file}: {detail}" if detail else file for file in files]
        for reason, files in sorted(named.items(), key=lambda item: -len(item[1])):
            shown = "; ".join(sorted(files)[:_SHOWN]) + ("; ..." if len(files) > _SHOWN else "")
            self._problems += [f"{self.root}: left out {len(files)} {reason} ({shown})"] * bool(files)

    def contents(self) -> Iterator[str]:
        for split, source in self._sources.items():
            for image, mask in source.pairs:
                yield f"{split}/{self._images[image].digest}/{self._masks[mask].digest}/{image}"

    def contents_by_size(self) -> Iterator[str]:
        for split, source in self._sources.items():
            for pair in source.pairs:
                sizes = [os.path.getsize(os.path.join(self.root, file)) for file in pair]
                yield f"{split}/{sizes[0]}/{sizes[1]}/{pair[0]}"

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
        seen = (self._images[image] for image, _ in self._sources[split].pairs)
        return sum(4 * one.height * one.width for one in seen)


def _labels(seen: SeenMask, colours: Mapping[str, int]) -> set[int]:
    """The class ids in a mask, read by its colours where they decide."""
    return {colours.get(seen.palette.get(value, ""), int(value)) for value in seen.text.split()}


def _by(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"


def _is_turned(root: str, image: str) -> bool:
    """Whether EXIF data turn the image, of which programs that save masks may know nothing."""
    from PIL import Image

    try:
        with Image.open(os.path.join(root, image)) as file:
            return file.getexif().get(0x0112, 1) > 4
    except Exception:  # only for a hint
        return False


def find_places(root: str) -> dict[str, str]:
    """{split: its folder}; {'train': ''} where images and masks lie in `root` itself."""
    if not os.path.isdir(root):
        what = "is a file, not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"the folder of images and masks {root} {what}; set --config.input.data_dir=DIR")
    names = folders(root)
    if {"images", "masks"} <= set(names):
        return {"train": ""}
    holding = [name for name in names if {"images", "masks"} <= set(folders(os.path.join(root, name)))]
    result = found_splits(root, holding, "folders of images and masks")
    if "train" not in result:
        raise UserError(f"{root} holds neither images and masks nor train/images and train/masks")
    return result


def read_names(root: str) -> tuple[str, ...]:
    """The lines of classes.txt, () without it.

    Raises:
      UserError: fewer than two, or one of them twice.
    """
    path = os.path.join(root, "classes.txt")
    if not os.path.isfile(path):
        return ()
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        names = tuple(line.strip() for line in file if line.strip())
    if not 2 <= len(set(names)) == len(names) <= IGNORE:
        raise UserError(f"{path} must name 2 to {IGNORE} different classes, one a line, the background first")
    return names


def masks_folder(data_dir: str = "") -> MasksFolder:
    """The data set 'masks_folder'."""
    return MasksFolder(data_dir)
