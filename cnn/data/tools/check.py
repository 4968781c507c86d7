"""Statistics of a data set, and the search for what is wrong with it."""

import collections
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cnn.data import Dataset, masks
from cnn.data.sources import ArraySource, Example, Source
from cnn.data.tools.leaks import suspects
from cnn.errors import UserError
from cnn.features import IGNORE

_CHUNK = 256
_SHOWN = 5  # how many examples of one problem are named


def examples_of(source: Source, chunk: int = _CHUNK) -> Iterator[tuple[int, Example | Exception]]:
    """Every example, or the exception that it raises; `chunk` of them are in memory at a time."""
    for start in range(0, len(source), chunk):
        rows = range(start, min(start + chunk, len(source)))
        try:
            yield from zip(rows, source.get(rows), strict=True)
        except Exception:  # one of them is bad: one by one
            for i in rows:
                try:
                    yield i, source[i]
                except Exception as error:
                    yield i, error


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
    where: dict[str, dict[bytes, tuple[int, bytes]]] = {}
    for split in splits:
        source = dataset.source(split, checked=False)
        bad = collections.defaultdict(list)
        seen: dict[bytes, tuple[int, bytes]] = {}
        counts = np.zeros(max(info.num_classes, 1), np.int64)
        duplicates = conflicting = 0
        for i, example in examples_of(source, 1 if info.input_key == "volume" else _CHUNK):
            if isinstance(example, Exception):
                bad["unreadable"].append(f"{source.describe(i)}: {example}")
                continue
            value, target = np.asarray(example[info.input_key]), np.asarray(example[info.target_key])
            if not (np.isfinite(value).all() and np.isfinite(target).all()):
                bad["not_finite"].append(source.describe(i))
            if masked:
                counts += masks.class_counts(target, info.num_classes)
                for kind, details in masks.mistakes(example, info):
                    bad[kind].append(f"{source.describe(i)}: {details}")
            elif info.class_names:
                if (target >= 0).all() and (target < info.num_classes).all():
                    counts += np.bincount(target.reshape(-1), minlength=info.num_classes)
                else:
                    bad["bad_labels"].append(f"{source.describe(i)}: {target}")
            label = target.tobytes()
            digest = hashlib.blake2b(value.tobytes(), digest_size=16, key=repr(value.shape).encode())
            earlier = seen.setdefault(digest.digest(), (i, label))
            if earlier[0] != i:
                duplicates += 1
                conflicting += earlier[1] != label
        missing = [name for name, count in zip(info.class_names, counts, strict=False) if not count]
        telling = suspects(source, info) if not bad else []
        report[split] = {
            "examples": len(source),
            **{kind: len(bad[kind]) for kind in kinds},
            "missing_classes": missing,
            "telling_features": len(telling),
            "duplicates": duplicates,
            "conflicting_labels": conflicting,
        }
        for kind, lines in bad.items():
            named = "; ".join(lines[:_SHOWN]) + ("; ..." if len(lines) > _SHOWN else "")
            if lines:
                problems.append(f"{split}: {len(lines)} {kind.replace('_', ' ')}: {named}")
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
