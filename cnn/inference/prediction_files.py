"""Files of predictions, complete up to the last row whenever a run is killed: JSON lines, or Parquet made of them.

A row is {path, ...what the task describes, network} or {path, error, network}; `network` tells the weights that gave it
from others. While a run lasts, the rows of FILE.parquet are in FILE.parquet.jsonl.
"""

import fcntl
import importlib
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

from cnn.errors import UserError
from cnn.run.workdir import to_json

SUFFIXES = (".jsonl", ".parquet")
CHUNK = 10_000  # rows that are converted at a time
Row = dict[str, Any]


class PredictionFile:
    """The predictions of one network; opened again, it is continued. For use in `with`; call `finish` at the end.

    Errors of an earlier run, and the last row of one that was killed while it wrote, are removed, so that those inputs
    are tried again.

    Args:
      path: FILE.jsonl or FILE.parquet.
      network: `Predictor.identity`.

    Attributes:
      done: paths of the rows that are there.

    Raises:
      UserError: another suffix, a file that holds something else or predictions of another network, a place that cannot
        be written, or pyarrow is missing.
    """

    def __init__(self, path: str, network: str):
        check_name(path)
        self.path, self._network, self.done = path, network, set[str]()
        self._parquet = path.endswith(".parquet")
        self._journal = f"{path}.jsonl" if self._parquet else path
        try:
            if self._parquet and os.path.exists(path) and not os.path.exists(self._journal):
                _replace(self._journal, _from_parquet(path))
            self._file = _locked(self._journal)
            try:
                self._resume()
            except BaseException:
                self._file.close()
                raise
        except BlockingIOError as error:
            raise UserError(f"--out={path} is being written by another process; choose another file") from error
        except OSError as error:
            raise UserError(f"--out={path} cannot be written: {error.strerror}; choose another place") from error

    def __enter__(self) -> "PredictionFile":
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def _resume(self) -> None:
        """Reads what is there and leaves the file at its end."""
        self._file.seek(0)
        good, again = 0, False
        for number, line in enumerate(self._file, 1):
            row = _parsed(line)
            if row is None:
                if not line.endswith(b"\n"):  # the trace of a kill
                    break
                raise UserError(f"{self._journal}, line {number}: not a prediction of cnn; choose another --out")
            if row.get("network") != self._network:
                raise UserError(f"{self.path} holds predictions of another network; choose another --out")
            good += len(line)
            if "error" in row:
                again = True
            else:
                self.done.add(row["path"])
        self._file.truncate(good)
        if again:
            self._file.seek(0)
            kept = (line for line in self._file if "error" not in (_parsed(line) or {}))
            _replace(self._journal, kept)
            self._file.close()
            self._file = _locked(self._journal)

    def add(self, row: Row) -> None:
        """Appends one row; it is there even if the process is killed right after."""
        self._file.write(_line({**row, "network": self._network}))
        self._file.flush()

    def finish(self) -> None:
        """Closes the file; a Parquet file is written, whole or not at all."""
        self._file.close()
        if self._parquet:
            _to_parquet(self._journal, self.path)
            os.remove(self._journal)


def check_name(path: str) -> None:
    """Raises UserError where `path` is no name for predictions, or needs a package that is missing."""
    if not path.endswith(SUFFIXES):
        raise UserError(f"--out={path}: predictions are written as {' or '.join(SUFFIXES)}")
    if path.endswith(".parquet"):
        _pyarrow()


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError("--out=FILE.parquet needs the package 'pyarrow': pip install 'cnn[parquet]'") from error


def _locked(path: str) -> Any:
    """The file, open for reading and appending, with a lock that goes with the process.

    Raises:
      BlockingIOError: another process has it.
    """
    file = open(path, "a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _line(row: Row) -> bytes:
    return to_json(row).encode() + b"\n"


def _parsed(line: bytes) -> Row | None:
    """The row of a line; None where it is none."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("path"), str) else None


def _replace(path: str, lines: Iterator[bytes]) -> None:
    part = f"{path}.part"
    with open(part, "wb") as file:
        file.writelines(lines)
    os.replace(part, path)


def _chunks(journal: str) -> Iterator[list[Row]]:
    with open(journal, "rb") as file:
        while lines := list(itertools.islice(file, CHUNK)):
            yield [_without_empty(json.loads(line)) for line in lines]


def _without_empty(value: Any) -> Any:
    """Empty dicts become None: Parquet has no columns without children."""
    if isinstance(value, dict):
        return {key: _without_empty(child) for key, child in value.items()} or None
    return [_without_empty(child) for child in value] if isinstance(value, list) else value


def _to_parquet(journal: str, path: str) -> None:
    arrow, parquet = _pyarrow()
    schema = arrow.schema([("path", arrow.string())])
    for chunk in _chunks(journal):
        names = dict.fromkeys(name for row in chunk for name in row)
        found = arrow.table({name: [row.get(name) for row in chunk] for name in names}).schema
        # What earlier rows did not have is added, also within structs; whole numbers become floats where needed.
        schema = arrow.unify_schemas([schema, found], promote_options="permissive")
    part = f"{path}.part"
    with parquet.ParquetWriter(part, schema) as writer:
        for chunk in _chunks(journal):
            columns = [arrow.array([row.get(field.name) for row in chunk], field.type) for field in schema]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
    os.replace(part, path)


def _from_parquet(path: str) -> Iterator[bytes]:
    """The lines that a Parquet file was made of.

    Raises:
      UserError: it is no Parquet file.
    """
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(CHUNK):
                yield from (_line(_without_null(row)) for row in batch.to_pylist())
    except arrow.ArrowInvalid as error:
        raise UserError(f"{path} is no Parquet file; choose another --out") from error


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(child) for key, child in value.items() if child is not None}
    return [_without_null(child) for child in value] if isinstance(value, list) else value
