"""What this host's input pipeline gives, without any device: examples/s, and how many cores that takes."""

import contextlib
import dataclasses
import os
import time
from typing import Any

from ml_collections import ConfigDict

from cnn.data import open_dataset
from cnn.data.pipeline import TrainBatches, iterate
from cnn.data.prefetch import cores
from cnn.errors import UserError
from cnn.transforms import build_transforms

SECONDS = 4.0
WARM = 1  # batches first, in which threads start and caches fill


@dataclasses.dataclass(frozen=True)
class Loader:
    """A measured input pipeline.

    Attributes:
      rate: examples/s.
      busy: cores that it kept busy on average, of `cores`.
      size: examples of the training split.
      missing: why the data could not be opened; then the other numbers are 0, but for `cores`.
    """

    rate: float
    busy: float
    cores: int
    size: int
    missing: str = ""

    @property
    def per_core(self) -> float:
        """Examples/s of one busy core."""
        return self.rate / self.busy if self.busy else 0.0

    def cores_for(self, rate: float | int) -> float:
        """Busy cores that give `rate` examples/s, if more of them help."""
        return rate / self.per_core if self.per_core else 0.0


def measure(config: ConfigDict, seconds: float = SECONDS) -> Loader:
    """Draws training batches for about so long; `Loader.missing` says where the data are not here.

    Raises:
      UserError: a transform that is not for these data.
    """
    try:
        source = open_dataset(config.input).source(config.input.train_split)
    except UserError as error:
        return Loader(0.0, 0.0, cores(), 0, str(error))
    how = config.input
    batches = TrainBatches(source, build_transforms(how.train_transforms), how.batch_size, config.seed)
    with contextlib.closing(iterate(batches, 0, how.threads, how.workers)) as data:
        for _ in range(WARM):
            next(data)
        begin, worked, drawn = time.perf_counter(), _cpu_seconds(), 0
        while (passed := time.perf_counter() - begin) < seconds or not drawn:
            drawn += len(_first(next(data)))
        passed = time.perf_counter() - begin
        busy = (_cpu_seconds() - worked) / passed
    return Loader(drawn / passed, max(busy, 1e-3), cores(), len(source))


def _first(batch: dict[str, Any]) -> Any:
    return next(iter(batch.values()))


def _cpu_seconds() -> float:
    """Of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
