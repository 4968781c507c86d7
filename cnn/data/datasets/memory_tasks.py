"""The adding problem and copy memory: how far back can a network remember? (Bai et al. 2018, arXiv 1803.01271)

Generators and sizes as in locuslab/TCN, from a fixed seed; nothing is downloaded.
"""

from functools import partial

import numpy as np

from cnn.data.arrays import Arrays, InMemory
from cnn.features import DatasetInfo, Feature

SEEDS = {"train": 1111, "test": 2222}
SYMBOLS, RECALLED, MARK = 8, 10, 9


class Adding(InMemory):
    """Series [T, 2] of uniform numbers and two marks; the target is the sum of the two marked numbers.

    50,000 / 1,000 examples. Answering 1 every time has a mean squared error of 1/6, 0.1667.
    """

    def __init__(self, data_dir: str = "", *, length: int):
        info = DatasetInfo(f"adding_t{length}", {"series": Feature.series(length, 2)}, {"target": Feature.numbers(1)})
        super().__init__(info)

    def make(self) -> dict[str, Arrays]:
        return {"train": self._split("train", 50_000), "test": self._split("test", 1_000)}

    def _split(self, split: str, size: int) -> Arrays:
        rng, (length, _) = np.random.default_rng(SEEDS[split]), self.info.input_shape
        series = np.zeros((size, length, 2), np.float32)
        series[..., 0] = rng.random((size, length), np.float32)
        first = rng.integers(0, length, size)
        second = (first + rng.integers(1, length, size)) % length  # never the same step twice
        rows = np.arange(size)
        series[rows, first, 1] = series[rows, second, 1] = 1
        target = series[rows, first, 0] + series[rows, second, 0]
        return {"series": series, "target": target[:, None]}


class CopyMemory(InMemory):
    """Ten symbols 1..8, T - 1 zeros, eleven nines [T + 20, 1]; at the last ten steps the symbols are to be said.

    10,000 / 1,000 examples. Saying 0 and then guessing has a loss of 10 ln 8 / (T + 20) per step.
    """

    def __init__(self, data_dir: str = "", *, length: int):
        steps = length + 2 * RECALLED
        classes = tuple(str(symbol) for symbol in range(MARK + 1))
        info = DatasetInfo(
            f"copy_memory_t{length}",
            {"series": Feature.series(steps, 1)},
            {"labels": Feature.labels(steps)},
            classes,
        )
        super().__init__(info)

    def make(self) -> dict[str, Arrays]:
        return {"train": self._split("train", 10_000), "test": self._split("test", 1_000)}

    def _split(self, split: str, size: int) -> Arrays:
        steps = self.info.target_shape[0]
        symbols = np.random.default_rng(SEEDS[split]).integers(1, SYMBOLS + 1, (size, RECALLED))
        series, labels = np.zeros((size, steps, 1), np.float32), np.zeros((size, steps), np.int32)
        series[:, :RECALLED, 0] = symbols
        series[:, steps - RECALLED - 1 :, 0] = MARK
        labels[:, steps - RECALLED :] = symbols
        return {"series": series, "labels": labels}


adding_t200 = partial(Adding, length=200)
adding_t600 = partial(Adding, length=600)
copy_memory_t100 = partial(CopyMemory, length=100)
copy_memory_t1000 = partial(CopyMemory, length=1000)
