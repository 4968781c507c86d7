"""Sources: random access to decoded examples. `len(source)`, `source[i]`, `source.get(indices)`.

An example is a dict of numpy arrays named by meaning: `image` uint8 `h w c`, `volume` float32 `d h w c`,
`series` float32 `t c`, `label` int32, `mask` uint8 `*space`. Every source can be pickled, so that
worker processes can open it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from cnn.data.source import Example, Source
from cnn.errors import UserError, unknown
from cnn.features import DatasetInfo


class ArraySource:
    """Examples in memory, stacked: `arrays` is a dict of arrays of one length."""

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str = "arrays"):
        sizes = {key: len(value) for key, value in arrays.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"arrays of different lengths: {sizes}")
        self.arrays = dict(arrays)
        self.name = name
        self._size = next(iter(sizes.values()))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> Example:
        return {key: value[i] for key, value in self.arrays.items()}

    def get(self, indices: Sequence[int]) -> list[Example]:
        return [self[i] for i in indices]

    def describe(self, i: int) -> str:
        return f"example {i} of {self.name}"


class ListSource:
    """Examples in memory that do not stack, because their sizes differ."""

    def __init__(self, examples: Sequence[Example], name: str = "examples"):
        self.examples, self.name = list(examples), name

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> Example:
        return self.examples[i]

    def get(self, indices: Sequence[int]) -> list[Example]:
        return [self.examples[i] for i in indices]

    def describe(self, i: int) -> str:
        return f"example {i} of {self.name}"


class RecordSource:
    """One prepared TFDS split (ArrayRecord files), without TensorFlow."""

    def __init__(self, records: Any, info: DatasetInfo, name: str):
        self.records, self.info, self.name = records, info, name

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Example:
        return self._example(self.records[i])

    def get(self, indices: Sequence[int]) -> list[Example]:
        return [self._example(raw) for raw in self.records.__getitems__(list(indices))]

    def describe(self, i: int) -> str:
        return f"record {i} of {self.name}"

    def _example(self, raw: Mapping[str, Any]) -> Example:
        found = {name: np.asarray(raw[name]) for name in self.info.features}
        for name, feature in self.info.inputs.items():
            if found[name].dtype != feature.dtype:
                raise TypeError(f"{name} is {found[name].dtype}, expected {feature.dtype}")
        return {name: value.astype(self.info.features[name].dtype, copy=False) for name, value in found.items()}


class SplitSource:
    """Ranges of other sources, one after the other: what 'train[:90%]+extra' means."""

    def __init__(self, parts: Sequence[tuple[Source, int, int]], name: str):
        self.parts, self.name = tuple(parts), name
        self._ends = np.cumsum([stop - start for _, start, stop in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, i: int) -> tuple[Source, int]:
        part = int(np.searchsorted(self._ends, i, side="right"))
        source, _, stop = self.parts[part]
        return source, i - int(self._ends[part]) + stop

    def __getitem__(self, i: int) -> Example:
        source, j = self._find(i)
        return source[j]

    def get(self, indices: Sequence[int]) -> list[Example]:
        if len(self.parts) == 1:
            source, start, _ = self.parts[0]
            return source.get([i + start for i in indices])
        return [self[i] for i in indices]

    def describe(self, i: int) -> str:
        source, j = self._find(i)
        return source.describe(j)

    def files(self, i: int) -> tuple[list[str], str]:
        """See `files_of`."""
        source, j = self._find(i)
        return files_of(source, j)


class CachedSource:
    """Keeps decoded examples, for inputs of different shapes: all of them, or the first that make up `limit` bytes."""

    def __init__(self, source: Source, limit: int | None = None):
        self.source, self.limit = source, limit
        self._kept: dict[int, Example] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Example:
        found = self._kept.get(i)
        if found is None:
            found = self.source[i]
            self._bytes += sum(np.asarray(value).nbytes for value in found.values())
            if self.limit is None or self._bytes <= self.limit:
                self._kept[i] = found
        return found

    def get(self, indices: Sequence[int]) -> list[Example]:
        return [self[i] for i in indices]

    def describe(self, i: int) -> str:
        return self.source.describe(i)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": {}, "_bytes": 0}  # a worker process fills its own


def files_of(source: Source, i: int) -> tuple[list[str], str]:
    """(files that example i is made of and of nothing else, what besides them decides how), ([], '') if unknown."""
    files = getattr(source, "files", None)
    return files(i) if callable(files) else ([], "")


def targets(source: Source, key: str = "label") -> np.ndarray | None:
    """Targets of all examples where they are known without decoding the inputs, else None."""
    if isinstance(source, ArraySource):
        return source.arrays[key]
    if isinstance(source, CachedSource):
        return targets(source.source, key)
    if isinstance(source, SplitSource):
        parts = [(targets(part, key), start, stop) for part, start, stop in source.parts]
        if any(found is None for found, _, _ in parts):
            return None
        return np.concatenate([found[start:stop] for found, start, stop in parts])
    return getattr(source, "labels", None) if key == "label" else None


def lengths(source: Source, name: str) -> Int64[np.ndarray, " n"]:
    """Rows of a ragged feature in each example. Reads every example once where the source does not know."""
    if isinstance(source, SplitSource):
        return np.concatenate([lengths(part, name)[start:stop] for part, start, stop in source.parts])
    known = getattr(source, "lengths", None)
    if known is not None:
        return np.asarray(known(name), np.int64)
    return np.array([len(source[i][name]) for i in range(len(source))], np.int64)


def in_memory(source: Source, chunk: int = 256) -> ArraySource:
    """Decodes everything once into stacked arrays.

    Raises:
      UserError: inputs of different shapes.
    """
    if not len(source):
        raise UserError(f"{getattr(source, 'name', 'the split')} is empty")
    first = source[0]
    arrays = {
        key: np.empty((len(source), *np.shape(value)), np.asarray(value).dtype)
        for key, value in first.items()
    }
    for start in range(0, len(source), chunk):
        for i, example in enumerate(source.get(range(start, min(start + chunk, len(source)))), start):
            for key, value in example.items():
                if np.shape(value) != arrays[key].shape[1:]:
                    raise UserError(
                        f"{source.describe(i)}: {key} of shape {np.shape(value)}, the first has "
                        f"{arrays[key].shape[1:]}; set config.input.in_memory='no' and a resize"
                    )
                arrays[key][i] = value
    return ArraySource(arrays, getattr(source, "name", "arrays"))


def concatenated(parts: Sequence[Mapping[str, np.ndarray]], name: str) -> ArraySource:
    """Parts of splits as one source; a single part stays a view."""
    if len(parts) == 1:
        return ArraySource(parts[0], name)
    return ArraySource({key: np.concatenate([part[key] for part in parts]) for key in parts[0]}, name)


_PART = re.compile(r"^(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?$")


def parse_split(text: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """'train[:90%]+extra[10:]' as (split, start, stop) triples; the rounding is TFDS's ('closest').

    Raises:
      UserError: unknown split, bad syntax, or no example left.
    """
    parts = []
    for piece in text.replace(" ", "").split("+"):
        match = _PART.match(piece)
        if not match:
            raise UserError(f"cannot read split '{text}'; write for instance 'train' or 'train[:90%]'")
        name = match["name"]
        if name not in sizes:
            raise unknown("split", name, sizes)
        start, stop = (
            _bound(match[side], sizes[name], default)
            for side, default in (("start", 0), ("stop", sizes[name]))
        )
        parts.append((name, start, max(start, stop)))
    if not sum(stop - start for _, start, stop in parts):
        raise UserError(f"split '{text}' holds no example; sizes are {dict(sizes)}")
    return parts


def _bound(text: str | None, size: int, default: int) -> int:
    if not text:
        return default
    if text.endswith("%"):
        percent = int(text[:-1])
        if abs(percent) > 100:
            raise UserError(f"a split boundary of {text} is outside -100%..100%")
        value = round(size * percent / 100)
    else:
        value = int(text)
    return min(max(value + size if value < 0 else value, 0), size)
