"""Composed scenes with exact masks: clothes or digits cut out and pasted on photos of textures ("Cut, paste and learn",
Dwibedi et al. 2017, arXiv 1708.01642).

Everything is real but the composition: items of Fashion-MNIST (Xiao et al. 2017, MIT) or of UCI's handwritten digits
(CC-BY-4.0), scikit-image's photos of bricks, grass and gravel (CC0). An item covers the pixels that are not black,
later ones lie over earlier ones. Training, validation and test take different items, and different parts of the photos.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cnn.data import open_provider
from cnn.data.arrays import Arrays, InMemory
from cnn.draws import Draws
from cnn.errors import UserError
from cnn.features import DatasetInfo, Feature

SIDE, MOST_ITEMS = 128, 5
SIZES = {"train": 16_000, "validation": 200, "test": 400}
TEXTURES = ("brick", "grass", "gravel")
PARTS = {"train": (0, 256), "validation": (256, 384), "test": (384, 512)}  # rows of the photos
# Fashion-MNIST's shirts, pullovers and coats are hard to tell apart at 28x28 even for people: they are one class here.
CLOTHES = ("top", "trousers", "dress", "shoe", "bag")
CLOTHES_OF = np.array([0, 1, 0, 2, 0, 3, 0, 3, 4, 3])  # by Fashion-MNIST's label


class Scenes(InMemory):
    """16,000 / 200 / 400 grey pictures of 128x128 with one to five items, each 28 to 60 pixels large.

    Args:
      name: of the data set.
      classes: names of the items' classes.
      items: {split: (pictures [n h w], classes [n])}; called once.
    """

    def __init__(self, name: str, classes: tuple[str, ...], items: Any):
        info = DatasetInfo(
            name,
            {"image": Feature.image(SIDE, SIDE, 1)},
            {"mask": Feature.mask(SIDE, SIDE)},
            ("background", *classes),
        )
        super().__init__(info, tuple(SIZES))
        self._items = items

    def make(self) -> dict[str, Arrays]:
        photos, items = textures(), self._items()
        return {
            split: compose(*items[split], photos[:, slice(*PARTS[split])], size, seed)
            for seed, (split, size) in enumerate(SIZES.items())
        }

    def contents(self) -> tuple[str, ...]:
        return ("composed scenes 1", *(f"{split} {size}" for split, size in SIZES.items()))


def textures() -> UInt8[np.ndarray, "n h w"]:
    """The photos, grey, 512x512.

    Raises:
      UserError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise UserError("composed scenes need scikit-image's photos: pip install 'cnn[segmentation]'") from error
    return np.stack([getattr(data, name)() for name in TEXTURES])


def compose(
    pictures: UInt8[np.ndarray, "n a a"],
    classes: np.ndarray,
    photos: UInt8[np.ndarray, "t h w"],
    size: int,
    seed: int,
) -> Arrays:
    """`size` scenes of items (class ids from 0; the mask has them from 1) on `photos`; a function of its arguments."""
    import cv2

    draws = Draws(seed, np.arange(size))
    backdrop = draws.integers(0, len(photos))
    corner = draws.uniform(shape=(2,)) * [photos.shape[1] - SIDE + 1, photos.shape[2] - SIDE + 1]
    light = draws.uniform(0.5, 1.0)
    count = draws.integers(1, MOST_ITEMS + 1)
    # The classes are equally likely, whatever their share of the items.
    order, size_of = np.argsort(classes, kind="stable"), np.bincount(classes)
    chosen = draws.integers(0, len(size_of), (MOST_ITEMS,))
    first = np.cumsum(size_of) - size_of
    which = order[first[chosen] + (draws.uniform(shape=(MOST_ITEMS,)) * size_of[chosen]).astype(int)]
    side = draws.integers(28, 61, (MOST_ITEMS,))
    place = draws.uniform(-0.15, 0.85, (MOST_ITEMS, 2))  # of the item's corner: some are cut by the border
    mirrored = draws.bernoulli(0.5, (MOST_ITEMS,))
    gain = draws.uniform(0.6, 1.0, (MOST_ITEMS,))
    image = np.empty((size, SIDE, SIDE), np.uint8)
    mask = np.zeros((size, SIDE, SIDE), np.uint8)
    for i in range(size):
        top, left = (int(v) for v in corner[i])
        image[i] = photos[backdrop[i], top : top + SIDE, left : left + SIDE] * light[i]
        for j in range(count[i]):
            item, large = pictures[which[i, j]], (int(side[i, j]),) * 2
            covers = cv2.resize((item > 0).astype(np.uint8), large, interpolation=cv2.INTER_NEAREST) > 0
            pixels = cv2.resize(item, large, interpolation=cv2.INTER_LINEAR) * gain[i, j]
            if mirrored[i, j]:
                covers, pixels = covers[:, ::-1], pixels[:, ::-1]
            row, column = (int(v) for v in place[i, j] * SIDE)
            there = (slice(max(row, 0), row + large[0]), slice(max(column, 0), column + large[1]))
            covers, pixels = covers[max(-row, 0) :, max(-column, 0) :], pixels[max(-row, 0) :, max(-column, 0) :]
            seen = image[i][there].shape
            covers, pixels = covers[: seen[0], : seen[1]], pixels[: seen[0], : seen[1]]
            image[i][there][covers] = pixels[covers].astype(np.uint8)
            mask[i][there][covers] = classes[which[i, j]] + 1
    return {"image": image[..., None], "mask": mask}


def _parted(
    train: Arrays, test: Arrays, first: int, class_of: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pictures and classes of each split; the first items of the training set train, the others validate."""
    parts = {"train": (train, slice(0, first)), "validation": (train, slice(first, None)), "test": (test, slice(None))}
    return {
        split: (arrays["image"][rows, ..., 0], class_of[arrays["label"][rows]])
        for split, (arrays, rows) in parts.items()
    }


def _clothes(data_dir: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    provider = open_provider("fashion_mnist", data_dir)
    provider.prepare()
    train, test = provider.arrays("train"), provider.arrays("test")
    return _parted(train, test, 50_000, CLOTHES_OF)


def _digits(data_dir: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    provider = open_provider("digits", data_dir)
    provider.prepare()
    train, test = provider.arrays("train"), provider.arrays("test")
    return _parted(train, test, 750, np.arange(10))


def scenes(data_dir: str = "") -> Scenes:
    """The data set 'scenes': five classes of clothes."""
    return Scenes("scenes", CLOTHES, functools.partial(_clothes, data_dir))


def scenes_digits(data_dir: str = "") -> Scenes:
    """The data set 'scenes_digits': the ten digits, where Fashion-MNIST is not at hand."""
    return Scenes("scenes_digits", tuple(map(str, range(10))), functools.partial(_digits, data_dir))
