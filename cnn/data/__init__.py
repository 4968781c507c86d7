"""Data: the table of data sets and `open_dataset`. Imports neither JAX nor NumPy by itself."""

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from cnn import paths
from cnn.errors import UserError, unknown
from cnn.tables import Entry, resolve

if TYPE_CHECKING:
    from cnn.data.info import DatasetInfo
    from cnn.data.sources import Source

# Each target takes the configured data_dir ('' for the default) and returns what `Provider` says.
DATASETS: dict[str, Entry] = {
    "digits": Entry("cnn.data.datasets.digits:digits", "UCI optdigits, 898/899 grey 8x8, 10 classes"),
    "mnist1d": Entry(
        "cnn.data.datasets.mnist1d:mnist1d", "MNIST-1D, 4000/1000 series of 40 steps, 10 classes"
    ),
    "mnist1d_shuffled": Entry(
        "cnn.data.datasets.mnist1d:mnist1d_shuffled", "MNIST-1D with its 40 steps permuted"
    ),
    "fashion_mnist": Entry(
        "cnn.data.datasets.fashion_mnist:fashion_mnist", "60000/10000 grey 28x28, 10 classes"
    ),
    "cifar10": Entry("cnn.data.datasets.public:cifar10", "50000/10000 RGB 32x32, 10 classes"),
    "cifar100": Entry("cnn.data.datasets.public:cifar100", "50000/10000 RGB 32x32, 100 classes"),
    "imagenet2012": Entry(
        "cnn.data.datasets.public:imagenet2012", "1281167/50000 photos, 1000 classes (manual download)"
    ),
    "folder": Entry("cnn.data.folder:folder", "your images: DIR/CLASS/* or DIR/{train,test}/CLASS/*"),
}

MEMORY_LIMIT = 2 << 30  # bytes up to which in_memory='auto' keeps a decoded split


class Provider:
    """One data set behind the table: what each target of DATASETS returns.

    Attributes:
      info: facts that need no data on disk (except for 'folder').
      splits: names of the splits, known without data on disk.
    """

    info: "DatasetInfo"
    splits: tuple[str, ...]

    def prepare(self) -> None:
        """Makes the data ready to read; returns at once where they are. Repairs half-made ones."""

    def sizes(self) -> dict[str, int]:
        """Examples per split, once prepared."""
        raise NotImplementedError

    def source(self, split: str) -> "Source":
        """A whole split, once prepared."""
        raise NotImplementedError

    def split_bytes(self, split: str) -> int | None:
        """Bytes of a whole decoded split, None where nobody knows."""
        size = self.info.example_bytes
        return None if size is None else size * self.sizes()[split]

    def notes(self) -> tuple[str, ...]:
        """Lines that the user should see."""
        return ()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that is ready to read.

    Attributes:
      info: facts about it.
      splits: examples per split.
      notes: lines that the user should see, for instance files that were left out.
    """

    info: "DatasetInfo"
    splits: dict[str, int]
    notes: tuple[str, ...]
    _provider: Provider
    _fake: bool
    _in_memory: str
    _workers: int

    def source(self, split: str) -> "Source":
        """Examples of 'train', 'train[:90%]', 'train[90%:]+test', ...

        Raises:
          UserError: no such split, bad syntax, or no example in it.
        """
        from cnn.data import sources

        parts = sources.parse_split(split, self.splits)
        if self._fake:
            opened = [(sources.fake_source(self.info, name), a, b) for name, a, b in parts]
        else:
            opened = [(self._provider.source(name), a, b) for name, a, b in parts]
        name = f"{self.info.name} '{split}'"
        whole = sources.SplitSource(opened, name)
        stackable = self.info.example_bytes is not None
        if self._fake or (stackable and self._keep(len(whole) * (self.info.example_bytes or 0))):
            return sources.in_memory(whole)
        if not stackable and not self._workers:  # a worker process would keep its own copy
            known = [self._provider.split_bytes(part) for part, _, _ in parts]
            if self._keep(None if None in known else sum(known)):  # ty: ignore
                return sources.CachedSource(whole)
        return whole

    def _keep(self, size: int | None) -> bool:
        if self._in_memory == "auto":
            return size is not None and size <= MEMORY_LIMIT
        return self._in_memory == "yes"


def open_dataset(config: Any) -> Dataset:
    """Opens `config.input.dataset`, preparing it first where it is not (`config` is config.input).

    Raises:
      UserError: unknown name, data that cannot be had here (says what to do), a broken folder.
    """
    provider = open_provider(config.dataset, config.data_dir)
    if config.in_memory not in ("auto", "yes", "no"):
        raise unknown("config.input.in_memory", str(config.in_memory), ("auto", "yes", "no"))
    if config.fake:
        from cnn.data.sources import FAKE_TRAIN, fake_sizes

        info = dataclasses.replace(provider.info, train_examples=FAKE_TRAIN)
        sizes, notes = fake_sizes(provider.splits), ()
    else:
        provider.prepare()
        sizes, notes = provider.sizes(), provider.notes()
        info = dataclasses.replace(provider.info, train_examples=sizes.get("train"))
    return Dataset(info, sizes, notes, provider, config.fake, config.in_memory, config.workers)


def open_provider(name: str, data_dir: str = "") -> Provider:
    """What stands behind a name, prepared or not.

    Raises:
      UserError: unknown name, or a package that is missing.
    """
    if not name:
        raise UserError(f"config.input.dataset is not set. Valid: {', '.join(DATASETS)}")
    try:
        return resolve("dataset", DATASETS, name)(data_dir)
    except ImportError as error:
        raise UserError(
            f"dataset '{name}' needs the package '{error.name}': pip install 'cnn[data]'"
        ) from error


def data_root(data_dir: str = "") -> str:
    """Where prepared data are kept: data_dir, else what `cnn.paths.data_dir` says."""
    return os.path.expanduser(data_dir) if data_dir else str(paths.data_dir())
