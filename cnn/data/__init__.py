"""Data: the table of data sets and `open_dataset`. Imports neither JAX nor NumPy by itself."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable
from typing import Any

from cnn import paths
from cnn.data.source import Source
from cnn.errors import UserError, printable, unknown
from cnn.features import DatasetInfo
from cnn.tables import Entry, resolve

# Each target takes the configured data_dir ('' for the default) and returns what `Provider` says.
DATASETS: dict[str, Entry] = {
    "digits": Entry("cnn.data.datasets.digits:digits", "UCI optdigits, 898/899 grey 8x8, 10 classes"),
    "mnist1d": Entry(
        "cnn.data.datasets.mnist1d:mnist1d", "MNIST-1D, 4000/1000 series of 40 steps, 10 classes"
    ),
    "mnist1d_shuffled": Entry(
        "cnn.data.datasets.mnist1d:mnist1d_shuffled", "MNIST-1D with its 40 steps permuted"
    ),
    "breast_cancer": Entry(
        "cnn.data.datasets.breast_cancer:breast_cancer", "380/189 rows of 30 columns, 2 classes"
    ),
    "fashion_mnist": Entry(
        "cnn.data.datasets.fashion_mnist:fashion_mnist", "60000/10000 grey 28x28, 10 classes"
    ),
    "cifar10": Entry("cnn.data.datasets.public:cifar10", "50000/10000 RGB 32x32, 10 classes"),
    "cifar100": Entry("cnn.data.datasets.public:cifar100", "50000/10000 RGB 32x32, 100 classes"),
    "imagenet2012": Entry(
        "cnn.data.datasets.public:imagenet2012", "1281167/50000 photos, 1000 classes (manual download)"
    ),
    "ucr": Entry("cnn.data.datasets.ucr:ucr", "your series: X_TRAIN.ts and X_TEST.ts, or one .ts file"),
    "ucr_gunpoint": Entry("cnn.data.datasets.ucr:ucr_gunpoint", "UCR GunPoint, 50/150 of 150 steps, 2 classes"),
    "ucr_italypowerdemand": Entry(
        "cnn.data.datasets.ucr:ucr_italypowerdemand", "UCR ItalyPowerDemand, 67/1029 of 24 steps, 2 classes"
    ),
    "ucr_osuleaf": Entry("cnn.data.datasets.ucr:ucr_osuleaf", "UCR OSULeaf, 200/242 of 427 steps, 6 classes"),
    "ucr_basicmotions": Entry(
        "cnn.data.datasets.ucr:ucr_basicmotions", "UEA BasicMotions, 40/40 of 100 x 6, 4 classes"
    ),
    "ucr_japanesevowels": Entry(
        "cnn.data.datasets.ucr:ucr_japanesevowels", "UEA JapaneseVowels, 270/370 of 7-29 x 12, 9 classes"
    ),
    "adding_t200": Entry("cnn.data.datasets.memory_tasks:adding_t200", "adding problem, 50000/1000 of 200 steps"),
    "adding_t600": Entry("cnn.data.datasets.memory_tasks:adding_t600", "adding problem, 50000/1000 of 600 steps"),
    "copy_memory_t100": Entry(
        "cnn.data.datasets.memory_tasks:copy_memory_t100", "copy memory, 10000/1000 of 120 steps"
    ),
    "copy_memory_t1000": Entry(
        "cnn.data.datasets.memory_tasks:copy_memory_t1000", "copy memory, 10000/1000 of 1020 steps"
    ),
    "scenes": Entry(
        "cnn.data.datasets.scenes:scenes", "2000/200/400 scenes 128x128 of pasted clothes, masks of 5 classes"
    ),
    "scenes_digits": Entry(
        "cnn.data.datasets.scenes:scenes_digits", "2000/200/400 scenes 128x128 of pasted digits, masks of 10 classes"
    ),
    "nuclei2d": Entry("cnn.data.datasets.nuclei2d:nuclei2d", "StarDist's picture of 125 nuclei, 3/1 quadrants, masks"),
    "oxford_iiit_pet": Entry(
        "cnn.data.datasets.public_masks:oxford_iiit_pet", "3680/3669 photos of cats and dogs, masks of the pet"
    ),
    "cityscapes": Entry(
        "cnn.data.datasets.public_masks:cityscapes", "2975/500 street photos, masks of 19 classes (manual download)"
    ),
    "masks_folder": Entry(
        "cnn.data.masks_folder:masks_folder", "your images and masks: DIR/{images,masks}/*, or below DIR/train, ..."
    ),
    "colin27": Entry("cnn.data.datasets.colin27:colin27", "one T1 head, half to train, half to test: brain extraction"),
    "nuclei3d": Entry("cnn.data.datasets.nuclei3d:nuclei3d", "StarDist's stack of 51 nuclei, two blocks: foreground"),
    "volumes_folder": Entry(
        "cnn.data.volumes_folder:volumes_folder", "your volumes: DIR/{dataset.json,imagesTr,labelsTr} (NIfTI)"
    ),
    "folder": Entry(
        "cnn.data.folder:folder", "your images: DIR/CLASS/* or DIR/{train,validation,test}/CLASS/*"
    ),
}

MEMORY_LIMIT = 2 << 30  # bytes up to which in_memory='auto' keeps a decoded split


class Provider:
    """One data set behind the table: what each target of DATASETS returns.

    Attributes:
      info: facts that need no data on disk (except for 'folder').
      splits: names of the splits, known without data on disk.
    """

    info: DatasetInfo
    splits: tuple[str, ...]

    def prepare(self) -> None:
        """Makes the data ready to read; returns at once where they are. Repairs half-made ones."""

    def sizes(self) -> dict[str, int]:
        """Examples per split, once prepared."""
        raise NotImplementedError

    def source(self, split: str) -> Source:
        """A whole split, once prepared."""
        raise NotImplementedError

    def arrays(self, split: str) -> dict[str, Any]:
        """A whole split, decoded and stacked; only where all inputs have one shape."""
        raise NotImplementedError

    def split_bytes(self, split: str) -> int | None:
        """Bytes of a whole decoded split of inputs of different shapes, None where nobody knows."""
        return None

    def contents(self) -> Iterable[str]:
        """What tells these data from others of the same name and sizes, once prepared."""
        return ()

    def contents_by_size(self) -> Iterable[str]:
        """`contents` as checkpoints of format 1 have them: files of a folder by their sizes, not by hashes."""
        return self.contents()

    def notes(self) -> tuple[str, ...]:
        """Lines that the user should see."""
        return ()

    def problems(self) -> tuple[str, ...]:
        """Those of the notes that `cnn data check` counts as problems."""
        return ()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that is ready to read.

    Attributes:
      info: facts about it.
      splits: examples per split.
      notes: lines that the user should see, for instance files that were left out.
    """

    info: DatasetInfo
    splits: dict[str, int]
    notes: tuple[str, ...]
    _provider: Provider
    _fake: bool
    _in_memory: str
    _workers: int
    _checked: set[str] = dataclasses.field(default_factory=set)  # splits whose targets can be

    @property
    def problems(self) -> tuple[str, ...]:
        """Those of the notes that are problems."""
        return () if self._fake else tuple(map(printable, self._provider.problems()))

    @property
    def root(self) -> str:
        """The user's folder, '' for data sets that are none."""
        return getattr(self._provider, "root", "")

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits: equal for equal data, wherever they are kept. Files of a folder count by path, label and a
        hash of their content, prepared data by their version."""
        return self._digest(["fake"] if self._fake else self._provider.contents())

    def matches(self, fingerprint: str) -> bool:
        """Whether a checkpoint's fingerprint is of these data; those of format 1 know files by their sizes alone."""
        if fingerprint == self.fingerprint:
            return True
        return not self._fake and fingerprint == self._digest(self._provider.contents_by_size())

    def _digest(self, contents: Iterable[str]) -> str:
        digest = hashlib.blake2b(digest_size=16)
        facts = [self.info.name, *self.info.class_names]
        facts += [f"{split}={size}" for split, size in sorted(self.splits.items())]
        for part in (*facts, *contents):
            digest.update(part.encode(errors="surrogateescape") + b"\0")
        return digest.hexdigest()

    def source(self, split: str, checked: bool = True) -> Source:
        """Examples of 'train', 'train[:90%]', 'train[90%:]+test', ...

        Args:
          checked: refuse targets that cannot be, where they are in memory (`cnn.data.labels_check`).

        Raises:
          UserError: no such split, bad syntax, no example in it, or targets that cannot be.
        """
        from cnn.data.labels_check import check_targets

        found = self._opened(split, checked)
        if checked and split not in self._checked:
            check_targets(found, self.info, split)
            self._checked.add(split)
        return found

    def _opened(self, split: str, checked: bool) -> Source:
        from cnn.data import sources
        from cnn.data.labels_check import CheckedSource

        parts = sources.parse_split(split, self.splits)
        name = f"{self.info.name} '{split}'"
        size = self.info.example_bytes
        stackable = size is not None and self._keep([size * self.splits[part] for part, _, _ in parts])
        if (self._fake and not self.info.ragged) or stackable:
            stacked = [
                {key: value[start:stop] for key, value in self._arrays(part).items()}
                for part, start, stop in parts
            ]
            return sources.concatenated(stacked, name)
        opened = []
        for part, start, stop in parts:
            records = self._whole(part)
            if checked and isinstance(records, sources.RecordSource):
                records = CheckedSource(records, self.info)
            opened.append((records, start, stop))
        whole = sources.SplitSource(opened, name)
        if size is None and not self._fake and not self._workers:  # a worker process would keep its own copy
            if self._keep([self._provider.split_bytes(part) for part, _, _ in parts]):
                return sources.CachedSource(whole)
        return whole

    def _whole(self, part: str) -> Source:
        from cnn.data import fake

        return fake.source(self.info, part) if self._fake else self._provider.source(part)

    def _arrays(self, part: str) -> dict[str, Any]:
        return self._whole(part).arrays if self._fake else self._provider.arrays(part)

    def _keep(self, sizes: list[int | None]) -> bool:
        """Whether splits of so many bytes are kept in memory; None is a size that nobody knows."""
        if self._in_memory != "auto":
            return self._in_memory == "yes"
        return None not in sizes and sum(size or 0 for size in sizes) <= MEMORY_LIMIT


def open_dataset(config: Any) -> Dataset:
    """Opens `config.input.dataset`, preparing it first where it is not (`config` is config.input).

    Raises:
      UserError: unknown name, data that cannot be had here (says what to do), a broken folder.
    """
    provider = open_provider(config.dataset, config.data_dir)
    if config.in_memory not in ("auto", "yes", "no"):
        raise unknown("config.input.in_memory", str(config.in_memory), ("auto", "yes", "no"))
    if config.fake:
        from cnn.data import fake

        sizes, notes = fake.sizes(provider.splits), ()
    else:
        provider.prepare()
        sizes, notes = provider.sizes(), tuple(map(printable, provider.notes()))
    return Dataset(provider.info, sizes, notes, provider, config.fake, config.in_memory, config.workers)


def open_provider(name: str, data_dir: str = "") -> Provider:
    """What stands behind a name, prepared or not.

    Raises:
      UserError: unknown name.
    """
    if not name:
        raise UserError(f"config.input.dataset is not set. Valid: {', '.join(DATASETS)}")
    return resolve("dataset", DATASETS, name)(data_dir)


def data_root(data_dir: str = "") -> str:
    """Where prepared data are kept: data_dir, else what `cnn.paths.data_dir` says."""
    return os.path.expanduser(data_dir) if data_dir else str(paths.data_dir())
