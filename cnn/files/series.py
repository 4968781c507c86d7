"""Files of series: .npy, .csv (a step per line) and .ts of the UCR and UEA archives -> float64 `t c`."""

import io
import itertools
import math
import os
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from cnn.errors import UserError, printable
from cnn.files.regular import read_regular

UNKNOWN = "?"  # in a .ts file: a gap in a series, or a series without a known class
COMMENTS = ("#", "%")


def read_npy(path: str | os.PathLike[str]) -> Shaped[np.ndarray, "..."]:
    """The array of a .npy file.

    Raises:
      UserError: it cannot be read, holds no numbers, or holds pickled objects.
    """
    try:
        found = np.load(io.BytesIO(read_regular(path)), allow_pickle=False)
    except Exception as error:  # headers are Python text, and can be wrong in any way
        raise _unreadable(path, error) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "buif":
        raise UserError(f"{printable(path)}: cannot be read as a series: holds no array of numbers")
    return found


def read_csv(path: str | os.PathLike[str]) -> Float[np.ndarray, "t c"]:
    """The numbers of a .csv file: a line for each step, a column for each channel, no header.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file
            text = read_regular(path).decode("utf-8-sig")
            found = np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not found.size:
        raise UserError(f"{printable(path)}: cannot be read as a series: empty file")
    return found


def _unreadable(path: str | os.PathLike[str], error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
    return UserError(f"{printable(path)}: cannot be read as a series: {printable(reason or type(error).__name__)}")


class TsFile:
    """A parsed .ts file.

    Args:
      labelled: refuse a file without classes, or with a series that has none of them.

    Attributes:
      series: each [t, c], of one number of channels; NaN where the file has '?'.
      labels: the class of each, as text; '?' where it is unknown.
      classes: in the order of the header; () without any.

    Raises:
      UserError: the file is not of this format, or has time stamps or numbers in place of classes.
    """

    def __init__(self, path: str | os.PathLike[str], *, labelled: bool = True):
        self.path, self._labelled = printable(path), labelled
        try:
            content = read_regular(path)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from error
        # Bytes that are not UTF-8 become escapes, so that different names stay different.
        lines = content.decode("utf-8-sig", errors="backslashreplace").replace("\r\n", "\n").split("\n")
        start = next((i for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
        if start is None:
            raise UserError(f"{self.path}: not a .ts file: it has no line '@data'")
        facts = self._header(lines[:start])
        if facts.get("timestamps", ["false"])[0].lower() == "true":
            raise UserError(f"{self.path}: has time stamps, which are not supported; write plain values")
        classes = facts.get("classlabel", ["false"])
        has_classes = classes[0].lower() == "true"
        if labelled and not has_classes:
            raise UserError(f"{self.path}: has no classes ('@classLabel true A B ...'), which classification needs")
        # Without classes a line may still end in a number to predict.
        self._ends_in_label = has_classes or facts.get("targetlabel", ["false"])[0].lower() == "true"
        self.classes = tuple(classes[1:]) if has_classes else ()
        twice = next((name for i, name in enumerate(self.classes) if name in self.classes[:i]), None)
        if twice is not None:
            raise UserError(f"{self.path}: '@classLabel' names '{twice}' twice")
        self.series: list[Float[np.ndarray, "t c"]] = []
        self.labels: list[str] = []
        for number, line in enumerate(lines[start + 1 :], start + 2):
            if line.strip() and not line.lstrip().startswith(COMMENTS):
                self._add(line.strip(), number)
        if not self.series:
            raise UserError(f"{self.path}: holds no series")

    def _header(self, lines: Sequence[str]) -> dict[str, list[str]]:
        """{name in lower case: words after it} of the lines '@name word word'; comments mean nothing."""
        facts: dict[str, list[str]] = {}
        for number, line in enumerate(map(str.strip, lines), 1):
            if not line or line.startswith(COMMENTS):
                continue
            name, *words = line[1:].split() or [""]
            if not line.startswith("@") or not name:
                raise UserError(
                    f"{self.path}, line {number}: before '@data' each line is a comment ('#') or begins with '@', "
                    f"got '{printable(line[:40])}'"
                )
            if name.lower() in facts:
                raise UserError(f"{self.path}, line {number}: '@{printable(name)}' is there twice")
            facts[name.lower()] = words or ["false"]
        return facts

    def _add(self, line: str, number: int) -> None:
        channels, label = line.split(":"), UNKNOWN
        if self._ends_in_label:
            *channels, label = channels
        try:
            rows = [[np.nan if v.strip() == UNKNOWN else float(v) for v in channel.split(",")] for channel in channels]
        except ValueError as error:
            raise UserError(f"{self.path}, line {number}: {printable(str(error)[:80])}") from error
        if any(map(math.isinf, itertools.chain.from_iterable(rows))):
            raise UserError(f"{self.path}, line {number}: holds an infinite value; write '?' for a gap")
        if len({len(row) for row in rows}) != 1 or (self._labelled and label not in self.classes):
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
