"""What turns one evaluation into metrics, on the host: sums of batches, and the kept rows where sums are not enough."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn.scoring import sums as pairs

Rows = Mapping[str, np.ndarray]  # [n, ...] each, the valid rows of one batch


class Scorer:
    """Collects one evaluation, batch by batch; a new one is made for each.

    A subclass declares what it needs and what it gives. It streams: rows are kept only where a metric needs all.

    Attributes:
      names: scalar metrics of `result`; `eval.metric` may be any of them, or 'loss'.
      proportions: those that are a share of independent examples, and so have a Wilson interval.
      predictions: names of predictions that `add` gets.
      batch: names of entries of the batch that `add` gets, such as targets.
    """

    names: tuple[str, ...] = ()
    proportions: tuple[str, ...] = ()
    predictions: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.sums: pairs.Sums = {}

    def add(self, sums: Mapping[str, tuple[Any, Any]], predictions: Rows, batch: Rows) -> None:
        """Takes in one batch: what the task's `metrics` gave, and the wanted rows."""
        self.sums = pairs.add(self.sums, sums)

    def result(self) -> dict[str, Any]:
        """{name: float, or nested lists and dicts for more than a number}; JSON-able."""
        return pairs.means(self.sums)


class Kept:
    """Rows of many batches, kept until all are there: for metrics that rank or sort."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, **rows: np.ndarray) -> None:
        """Keeps the rows of one batch."""
        for name, value in rows.items():
            self._parts.setdefault(name, []).append(np.asarray(value))

    def whole(self) -> dict[str, np.ndarray]:
        """{name: [examples, ...]} of all of them."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}
