"""MNIST-1D (Greydanus & Kobak 2024, arXiv 2011.14439): series of 40 steps from the authors' generator.

The generator's output equals the frozen file of the paper; nothing is downloaded.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cnn.data.records import Records


class Mnist1d(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """4000 / 1000 series, float32 `t c` = 40 x 1, standardised by the generator."""

    name = "mnist1d"
    VERSION = tfds.core.Version("1.0.0")
    shuffle_seq = False

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "series": tfds.features.Tensor(shape=(40, 1), dtype=np.float32),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, description=__doc__, license="Apache-2.0"
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from mnist1d.data import get_dataset_args, make_dataset

        args = get_dataset_args()
        args.shuffle_seq = self.shuffle_seq
        state = np.random.get_state()  # the generator seeds NumPy's global state
        try:
            data = make_dataset(args)
        finally:
            np.random.set_state(state)
        return {
            "train": self._generate_examples(data["x"], data["y"]),
            "test": self._generate_examples(data["x_test"], data["y_test"]),
        }

    def _generate_examples(self, series: Any, labels: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (values, label) in enumerate(zip(series, labels, strict=True)):
            yield i, {"series": values[:, None].astype(np.float32), "label": int(label)}


class Mnist1dShuffled(Mnist1d, skip_registration=True):
    """The same with one fixed permutation of the 40 steps (the generator's `shuffle_seq`)."""

    name = "mnist1d_shuffled"
    shuffle_seq = True


def mnist1d(data_dir: str = "") -> Records:
    """The data set 'mnist1d'."""
    return Records(Mnist1d, data_dir)


def mnist1d_shuffled(data_dir: str = "") -> Records:
    """The data set 'mnist1d_shuffled'."""
    return Records(Mnist1dShuffled, data_dir)
