"""Predictions for many files in bounded memory: read and preprocessed in threads, predicted in batches, in order."""

import collections
import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cnn.errors import UserError, printable
from cnn.inference.predictor import BATCH, Predictor
from cnn.inference.preprocess import Example, Frame, Preprocess
from cnn.inference.readers import read
from cnn.scoring.surfaces import largest_component

THREADS = 8
AHEAD_BYTES = 256 << 20  # of examples that wait for the network



@dataclasses.dataclass(frozen=True)
class Masks:
    """What to do about masks.

    Attributes:
      folder: where the task writes them; '' for nowhere.
      tile, overlap: see `Predictor.tiling`; with `tile` 0 pictures are predicted without tiles.
      largest: each class keeps its largest connected part alone.
    """

    folder: str = ""
    tile: int = 0
    overlap: float = 0.5
    largest: bool = False


@dataclasses.dataclass(frozen=True)
class Prediction:
    """About one input.

    Attributes:
      path: of its file, as it was given; `name`: see `Raw`.
      found: what the task describes; {} where there is none.
      error: why there is none, without the name; '' also where it was skipped.
      skipped: it was predicted before.
    """

    path: str
    name: str
    found: dict[str, Any]
    error: str = ""
    skipped: bool = False

    @property
    def row(self) -> dict[str, Any]:
        """{path, ...} for JSON and tables."""
        return {"path": listed(self.name), **({"error": self.error} if self.error else self.found)}


@dataclasses.dataclass(eq=False)
class _Item:
    """A raw input on its way: preprocessed, or with the reason why there is no example."""

    prediction: Prediction
    example: Example | None = None
    frame: Frame | None = None


def listed(name: str) -> str:
    """A name as files of predictions hold it: UTF-8, so what is not becomes backslash escapes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return printable(name)
    return name


def predictions(
    predictor: Predictor, paths: Sequence[str], masks: Masks = Masks(), done: Collection[str] = ()
) -> Iterator[Prediction]:
    """One prediction for each input that the files hold, in order; what cannot be predicted does not end it.

    Args:
      paths: see `cnn.inference.inputs.find`.
      done: names (`listed`) of inputs to skip.

    Raises:
      UserError: options that this network does not have, or masks that cannot be written.
    """
    task, in_tiles = predictor.built.task, predictor.dense and (masks.tile or predictor.info.input_key == "volume")
    if in_tiles or masks != Masks():
        predictor.tiling(masks.tile, masks.overlap)  # refuses what this network does not have
    preprocess, threads = (predictor.whole, 1) if in_tiles else (predictor.preprocess, THREADS)  # volumes are large
    items = _items(preprocess, predictor.info.input_key, paths, done, threads)
    for item, row in _by_tiles(predictor, items, masks) if in_tiles else _by_batches(predictor, items):
        if row is not None:
            if masks.largest:
                row, item.frame = {"mask": largest_component(item.frame.mask_back(row["mask"]))}, item.frame.raw()
            found = task.describe(row, item.frame)
            found |= task.write(row, item.frame, masks.folder) if masks.folder else {}
            item.prediction = dataclasses.replace(item.prediction, found=found)
        yield item.prediction


def _by_batches(predictor: Predictor, items: Iterable[_Item]) -> Iterator[tuple[_Item, Any]]:
    waiting: collections.deque[_Item] = collections.deque()

    def examples() -> Iterator[Example | None]:
        for item in items:
            example, item.example = item.example, None  # freed as soon as its batch is done
            waiting.append(item)
            yield example

    for row in predictor.stream(examples()):
        yield waiting.popleft(), row


def _by_tiles(predictor: Predictor, items: Iterable[_Item], masks: Masks) -> Iterator[tuple[_Item, Any]]:
    for item in items:
        row = None
        if item.example is not None:
            mask, item.frame = predictor.mask(item.example, item.frame, masks.tile, masks.overlap)
            row, item.example = {"mask": mask}, None
        yield item, row


def _items(
    preprocess: Preprocess, kind: str, paths: Sequence[str], done: Collection[str], most: int
) -> Iterator[_Item]:
    """Inputs in order, prepared by up to `most` threads that run ahead by a batch, or by less if examples are large."""
    threads = min(THREADS, os.cpu_count() or 1, most)
    ahead, waiting, stems = threads, collections.deque[Future[list[_Item]]](), Stems()
    pool = ThreadPoolExecutor(threads)
    try:
        for path in paths:
            waiting.append(pool.submit(_prepared, preprocess, kind, path, stems.of(path), done))
            while len(waiting) > ahead:
                items = waiting.popleft().result()
                size = sum(np.asarray(value).nbytes for item in items for value in (item.example or {}).values())
                ahead = max(1, min(BATCH, AHEAD_BYTES // max(size, 1)))
                yield from items
                del items
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepared(preprocess: Preprocess, kind: str, path: str, stem: str, done: Collection[str]) -> list[_Item]:
    """All inputs of one file."""
    found: list[_Item] = []
    if listed(path) in done:
        return [_Item(Prediction(path, path, {}, skipped=True))]
    try:
        for raw in read(kind, path):
            if listed(raw.name) in done:
                found.append(_Item(Prediction(path, raw.name, {}, skipped=True)))
                continue
            try:
                example, frame = preprocess(raw)
            except UserError as error:
                found.append(_Item(_failed(path, raw.name, error)))
                continue
            found.append(_Item(Prediction(path, raw.name, {}), example, dataclasses.replace(frame, stem=stem)))
    except UserError as error:
        found.append(_Item(_failed(path, path, error)))
    return found


def _failed(path: str, name: str, error: UserError) -> Prediction:
    return Prediction(path, name, {}, str(error).removeprefix(f"{printable(name)}: "))


class Stems:
    """Names for files that are written about inputs: those of the inputs without suffix, numbered where one comes
    twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, path: str) -> str:
        """The next input's."""
        name = Path(os.path.abspath(path)).name
        lower = name.lower()
        stem = next((name[: -len(end)] for end in (".nii.gz", ".nii") if lower.endswith(end)), Path(name).stem)
        found, number = stem, 1
        while found in self._taken:
            number += 1
            found = f"{stem}-{number}"
        self._taken.add(found)
        return found
