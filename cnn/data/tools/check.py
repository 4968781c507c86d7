"""Statistics of a data set, and the search for what is wrong with it."""

import collections
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnn.data import Dataset, masks
from cnn.data.sources import ArraySource, Example, Source, files_of
from cnn.data.tools.leaks import suspects
from cnn.data.verdicts import Kept, marks_of
from cnn.errors import UserError, printable
from cnn.features import IGNORE, DatasetInfo

_SHOWN = 5  # how many examples of one problem are named
_TOGETHER = 64 << 20  # bytes of decoded examples that are held at a time
_MOST, _RECORDS = 256, 16  # examples that are read together: of one size, of records of any size
_SAY_EVERY = 5.0  # seconds


class Looked(NamedTuple):
    """What the check keeps of an example.

    Attributes:
      input, target: hashes; equal ones belong to equal arrays.
      classes: that occur in the target.
      mistakes: [kind, details] of each.
    """

    input: str
    target: str
    classes: list[int]
    mistakes: list[list[str]]


def look(example: Example, info: DatasetInfo) -> Looked:
    """Everything that the check wants to know of one example."""
    value, target = np.asarray(example[info.input_key]), np.asarray(example[info.target_key])
    mistakes, classes = [], []
    if not (_finite(value) and _finite(target)):
        mistakes.append(["not_finite", ""])
    if info.target_key == "mask":
        classes = np.flatnonzero(masks.class_counts(target, info.num_classes)).tolist()
        mistakes += [[kind, details] for kind, details in masks.mistakes(example, info)]
    elif info.class_names:
        if (target >= 0).all() and (target < info.num_classes).all():
            classes = np.unique(target).tolist()
        else:
            mistakes.append(["bad_labels", str(target)[:80]])
    return Looked(_hash(value), _hash(target), classes, mistakes)


def _finite(value: np.ndarray) -> bool:
    return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())


def _hash(value: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16, key=repr(value.shape).encode())
    digest.update(np.ascontiguousarray(value).data if value.size else b"")
    return digest.hexdigest()


def looked_at(
    source: Source, info: DatasetInfo, split: str, root: str = ""
) -> Iterator[tuple[int, Looked | Exception]]:
    """What the check keeps of every example, in order, or the exception that reading it raises.

    Of files that have not changed since the last check of `root` nothing is read again.
    """
    kept = Kept(f"{info.name}:{info.class_names}:{root}", "check")
    known: dict[int, Looked] = {}
    keys: dict[int, tuple[str, list[list[int]]]] = {}
    for i in range(len(source)):
        files, how = files_of(source, i)
        if files:
            keys[i] = f"{files[0]}:{how}", marks_of(files)
            values = kept.get(*keys[i])
            if values is not None:
                known[i] = Looked(*values)
    todo = [i for i in range(len(source)) if i not in known]
    fresh, done = examples_of(source, todo, info.example_bytes), 0
    began = shown = time.monotonic()
    for i in range(len(source)):
        if i in known:
            yield i, known.pop(i)
            continue
        (_, example), done = next(fresh), done + 1
        if isinstance(example, Exception):
            yield i, example
            continue
        found = look(example, info)
        if i in keys:
            kept.put(*keys[i], found)
        yield i, found
        if time.monotonic() - shown > _SAY_EVERY:
            shown = time.monotonic()
            print(f"{split}: checked {done} of {len(todo)}, {done / (shown - began):.0f}/s", file=sys.stderr)
    kept.save()


def examples_of(
    source: Source, rows: Sequence[int], size: int | None = None
) -> Iterator[tuple[int, Example | Exception]]:
    """The examples of `rows`, or the exceptions that they raise; few enough are read together to bound the memory.

    Args:
      size: bytes of each, None where they differ.
    """
    several = len(rows) > 0 and not files_of(source, rows[0])[0]  # files are read one by one anyway
    chunk = min(max(_TOGETHER // max(size, 1), 1), _MOST) if size else _RECORDS if several else 1
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        try:
            yield from zip(part, source.get(part), strict=True)
        except Exception:  # one of them is bad: one by one
            for i in part:
                try:
                    yield i, source[i]
                except Exception as error:
                    yield i, error


class Found:
    """Counts of each kind of problem, and the first lines of each."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.lines: dict[str, list[str]] = {}

    def add(self, kind: str, line: str) -> None:
        """One more; the line is kept where there is room."""
        self.counts[kind] += 1
        if self.counts[kind] <= _SHOWN:
            self.lines.setdefault(kind, []).append(printable(line))

    def texts(self, split: str) -> list[str]:
        """A line per kind."""
        more = {kind: "; ..." if count > _SHOWN else "" for kind, count in self.counts.items()}
        return [
            f"{split}: {self.counts[kind]} {kind.replace('_', ' ')}: {'; '.join(lines)}{more[kind]}"
            for kind, lines in self.lines.items()
        ]


def check(dataset: Dataset, splits: Sequence[str]) -> dict[str, Any]:
    """Reads every example of `splits` and reports what is wrong.

    Returns:
      splits: {split: {examples, unreadable, not_finite, bad_labels, missing_classes, duplicates,
      conflicting_labels, telling_features; of masks also masks_of_another_size, empty_masks}},
      shared: [{splits, examples}] for equal inputs in two splits, problems: a list of lines (empty when all
      is well), notes: lines that need no action.
    """
    info, report = dataset.info, {}
    problems = list(dataset.problems)
    notes = [line for line in dataset.notes if line not in problems]
    masked = info.target_key == "mask"
    kinds = ["unreadable", "not_finite", "bad_labels"] + ["masks_of_another_size", "empty_masks"] * masked
    where: dict[str, dict[str, tuple[int, str]]] = {}
    for split in splits:
        source = dataset.source(split, checked=False)
        bad, classes = Found(), set()
        seen: dict[str, tuple[int, str]] = {}
        duplicates = conflicting = 0
        for i, found in looked_at(source, info, split, dataset.root):
            name = source.describe(i)
            if isinstance(found, Exception):
                text = str(found)  # most name the file themselves
                bad.add("unreadable", text if text.startswith(name) else f"{name}: {text}")
                continue
            classes.update(found.classes)
            for kind, details in found.mistakes:
                bad.add(kind, f"{name}: {details}" if details else name)
            earlier = seen.setdefault(found.input, (i, found.target))
            if earlier[0] != i:
                duplicates += 1
                conflicting += earlier[1] != found.target
        missing = [name for label, name in enumerate(info.class_names) if label not in classes]
        telling = suspects(source, info) if not bad.counts else []
        report[split] = {
            "examples": len(source),
            **{kind: bad.counts[kind] for kind in kinds},
            "missing_classes": missing,
            "telling_features": len(telling),
            "duplicates": duplicates,
            "conflicting_labels": conflicting,
        }
        problems += bad.texts(split)
        if missing:
            more = ", ..." if len(missing) > _SHOWN else ""
            lines = problems if info.target_key == "label" else notes  # steps may lack a class by design
            lines.append(f"{split}: no example of {', '.join(missing[:_SHOWN])}{more}")
        if telling:
            named = "; ".join(telling[:_SHOWN]) + ("; ..." if len(telling) > _SHOWN else "")
            what = "feature tells" if len(telling) == 1 else "features tell"
            problems.append(f"{split}: {len(telling)} {what} the target alone (a look-ahead?): {named}")
        if duplicates:
            text = f"{duplicates} examples repeat an earlier one, {conflicting} of them with another label"
            notes.append(f"{split}: {text}")
        where[split] = seen
    shared = []
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            count = len(where[one].keys() & where[other].keys())
            if count:
                shared.append({"splits": [one, other], "examples": count})
                problems.append(f"{one} and {other} share {count} equal inputs: a leak between them")
    return {"splits": report, "shared": shared, "problems": problems, "notes": notes}


def statistics(dataset: Dataset, split: str, limit: int = 5_000) -> dict[str, Any]:
    """Count, shapes, mean and standard deviation per channel (images in 0..1) and class balance.

    Inputs that are not in memory are sampled: `sampled` evenly spaced examples. They are summed in
    float64, each input with the same weight.
    """
    source, info = dataset.source(split, checked=False), dataset.info
    if isinstance(source, ArraySource):
        rows = np.arange(len(source))
        examples = ({key: value[i] for key, value in source.arrays.items()} for i in rows)
    else:
        rows = np.unique(np.linspace(0, len(source) - 1, min(len(source), limit)).astype(np.int64))
        examples = (source[int(i)] for i in rows)
    scale = 255.0 if info.input_key == "image" else 1.0
    first, second, shapes = 0.0, 0.0, collections.Counter()
    counts = np.zeros(info.num_classes, np.int64)
    for example in examples:
        value, target = example[info.input_key], np.asarray(example[info.target_key])
        if info.class_names:
            known = target[target != IGNORE] if info.target_key == "mask" else target
            if np.any((known < 0) | (known >= info.num_classes)):
                raise UserError(f"{split} holds labels outside 0..{info.num_classes - 1}; run `cnn data check`")
            counts += np.bincount(known.reshape(-1), minlength=info.num_classes)
        shapes[tuple(value.shape)] += 1
        x = value.reshape(-1, value.shape[-1]) / scale
        first, second = first + x.mean(0, dtype=np.float64), second + (x * x).mean(0, dtype=np.float64)
    mean = np.asarray(first) / len(rows)
    std = np.sqrt(np.maximum(np.asarray(second) / len(rows) - mean**2, 0))
    return {
        "examples": len(source),
        "sampled": len(rows),
        "shapes": [[*shape] for shape, _ in shapes.most_common(5)],
        "mean": [round(float(v), 4) for v in mean],
        "std": [round(float(v), 4) for v in std],
        "classes": counts.tolist(),
    }
