"""Data sets with masks that TFDS's own builders download: Oxford-IIIT Pet and Cityscapes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from cnn.data.records import Records
from cnn.data.sources import Example, RecordSource
from cnn.features import IGNORE, DatasetInfo, Feature

_PET = (
    "Where this machine has no network, run `cnn data prepare oxford_iiit_pet --data_dir=DIR` on one that has, "
    "and copy DIR/oxford_iiit_pet into the data_dir here"
)
_CITYSCAPES = (
    "Cityscapes needs an account at cityscapes-dataset.com: put leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip into DATA_DIR/downloads/manual, then run "
    "`cnn data prepare cityscapes --data_dir=DATA_DIR` (40 GB free)"
)
# The labels that the benchmark scores, by their id in the files; all others are ignored.
CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
    27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip


def table(labels: Mapping[int, int]) -> UInt8[np.ndarray, "256"]:
    """Class by label in the files; IGNORE for labels that are not named."""
    result = np.full(256, IGNORE, np.uint8)
    result[list(labels)] = list(labels.values())
    return result


class MaskSource(RecordSource):
    """One prepared TFDS split with masks; `image` and `mask` are the names of its features."""

    def __init__(self, records: Any, info: DatasetInfo, name: str, image: str, mask: str, classes: np.ndarray):
        super().__init__(records, info, name)
        self.image, self.mask, self.classes = image, mask, classes

    def _example(self, raw: Mapping[str, Any]) -> Example:
        return {"image": np.asarray(raw[self.image]), "mask": self.classes[np.asarray(raw[self.mask])[..., 0]]}


class MaskRecords(Records):
    """A TFDS builder with a picture and a mask in each example.

    Args:
      image, mask: names of its features.
      labels: {label in the files: name of the class}, in the order of the classes.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        data_dir: str,
        splits: tuple[str, ...],
        help: str,
        *,
        image: str,
        mask: str,
        labels: Mapping[int, str],
    ):
        self._image, self._mask, self._labels = image, mask, labels
        super().__init__(make, data_dir, splits, help)

    def _describe(self) -> DatasetInfo:
        # Open sizes also where all are equal: splits of this many bytes are read from disk, not stacked.
        names = tuple(self._labels.values())
        return DatasetInfo(
            self.builder.name,
            {"image": Feature.image(None, None, 3)},
            {"mask": Feature.mask(None, None)},
            names,
        )

    def source(self, split: str) -> MaskSource:
        classes = table({label: k for k, label in enumerate(self._labels)})
        records = self.builder.as_data_source(split=split)
        return MaskSource(records, self.info, f"{self.info.name} '{split}'", self._image, self._mask, classes)


def _builder(name: str, **options: Any) -> Any:
    return tfds.builder(name, **options)


def oxford_iiit_pet(data_dir: str = "") -> MaskRecords:
    """Oxford-IIIT Pet (Parkhi et al. 2012, CC-BY-SA-4.0), the pet against its background; the outline, which the
    authors did not classify, is ignored.
    """
    make = functools.partial(_builder, "oxford_iiit_pet")
    labels = {2: "background", 1: "pet"}
    fields = {"image": "image", "mask": "segmentation_mask"}
    return MaskRecords(make, data_dir, ("train", "test"), _PET, **fields, labels=labels)


def cityscapes(data_dir: str = "") -> MaskRecords:
    """Cityscapes (Cordts et al. 2016, arXiv 1604.01685), fine masks of 1024 x 2048; its test split has no labels and is
    left out. There is no background: set config.task.background=False.
    """
    make = functools.partial(_builder, "cityscapes/semantic_segmentation")
    fields = {"image": "image_left", "mask": "segmentation_label"}
    return MaskRecords(make, data_dir, ("train", "validation"), _CITYSCAPES, **fields, labels=CITYSCAPES)
