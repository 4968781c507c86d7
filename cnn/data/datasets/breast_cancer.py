"""Wisconsin diagnostic breast cancer (UCI, 1995) as scikit-learn ships it: a table of 569 rows, no grid at all.

Each row is a series of 30 "steps" with one channel, so that every network of 1-D data takes it; the order of the
columns means nothing. Two of three rows train, every third one tests.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cnn.data.records import Records


class BreastCancer(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """380 / 189 rows, float32 `t c` = 30 x 1, each column standardised by the training rows."""

    name = "breast_cancer"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "series": tfds.features.Tensor(shape=(30, 1), dtype=np.float32),
                "label": tfds.features.ClassLabel(names=["malignant", "benign"]),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, description=__doc__, license="CC-BY-4.0"
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from sklearn.datasets import load_breast_cancer

        table, labels = load_breast_cancer(return_X_y=True)
        test = np.arange(len(table)) % 3 == 2
        table = (table - table[~test].mean(0)) / table[~test].std(0)
        return {
            "train": self._generate_examples(table[~test], labels[~test]),
            "test": self._generate_examples(table[test], labels[test]),
        }

    def _generate_examples(self, table: Any, labels: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (row, label) in enumerate(zip(table, labels, strict=True)):
            yield i, {"series": row[:, None].astype(np.float32), "label": int(label)}


def breast_cancer(data_dir: str = "") -> Records:
    """The data set 'breast_cancer'."""
    return Records(BreastCancer, data_dir)
