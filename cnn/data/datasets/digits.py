"""UCI optdigits as scikit-learn ships it: 1797 grey digits of 8x8 pixels, values 0..16."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cnn.data.records import Records


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """First half / second half, the split of scikit-learn's "Recognizing hand-written digits".

    Pixels are scaled from 0..16 to 0..255.
    """

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, description=__doc__, license="CC-BY-4.0"
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from sklearn.datasets import load_digits

        data = load_digits()
        images = (data.images * 255 / 16).round().astype(np.uint8)
        half = len(images) // 2
        return {
            "train": self._generate_examples(images[:half], data.target[:half]),
            "test": self._generate_examples(images[half:], data.target[half:]),
        }

    def _generate_examples(self, images: Any, labels: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image[..., None], "label": int(label)}


def digits(data_dir: str = "") -> Records:
    """The data set 'digits'."""
    return Records(Digits, data_dir)
