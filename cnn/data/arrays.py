"""Data sets that are made in memory, from small files or by a generator; nothing is written to disk."""

from typing import Any

import numpy as np

from cnn.data import Provider
from cnn.data.sources import ArraySource
from cnn.features import DatasetInfo

Arrays = dict[str, np.ndarray]


class InMemory(Provider):
    """A provider whose `make` returns all splits at once, stacked.

    Args:
      info: its facts, known before `make`.
      splits: names of the splits.
    """

    def __init__(self, info: DatasetInfo, splits: tuple[str, ...] = ("train", "test")):
        self.info, self.splits = info, splits
        self._made: dict[str, Arrays] = {}

    def make(self) -> dict[str, Arrays]:
        """{split: {name: stacked array}}; called once, before the first example is read."""
        raise NotImplementedError

    def prepare(self) -> None:
        if not self._made:
            self._made = self.make()

    def sizes(self) -> dict[str, int]:
        return {split: len(arrays[self.info.input_key]) for split, arrays in self._made.items()}

    def arrays(self, split: str) -> dict[str, Any]:
        return self._made[split]

    def source(self, split: str) -> ArraySource:
        return ArraySource(self._made[split], f"{self.info.name} '{split}'")
