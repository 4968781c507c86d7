"""What was found in files, kept in the cache and looked for again only in files that changed.

A file counts as unchanged while its inode, size, time of its content and time of its entry are the same. What is found
includes a hash of the content, so that the fingerprint of a data set changes with its data and not with its dates.
"""

import concurrent.futures
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn import paths
from cnn.errors import printable
from cnn.files.checksums import digest_of

_FORMAT = 4  # raise it when what readers find in an unchanged file changes
_SAVE_EVERY = 30.0  # seconds
_SAY_EVERY = 5.0  # seconds


def verdicts(
    files: Sequence[str], root: str, kind: str, look: Callable[[str], Sequence[Any]]
) -> dict[str, list[Any]]:
    """{file: what `look` found in it}, in this order; threads look at those that are new or changed.

    Args:
      files: paths relative to `root`, each once.
      kind: names what is looked for; each kind has a cache of its own.
      look: from a full path to values that JSON holds.
    """
    kept = Kept(root, kind)
    marks = {file: marks_of([os.path.join(root, file)]) for file in files}
    todo = [file for file in files if kept.get(file, marks[file]) is None]
    began = shown = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda file: look(os.path.join(root, file)), todo)
        for i, (file, values) in enumerate(zip(todo, found, strict=True), 1):
            kept.put(file, marks[file], values)
            if time.monotonic() - shown > _SAY_EVERY:
                shown = time.monotonic()
                rate = i / (shown - began)
                print(f"{printable(root)}: checked {i} of {len(todo)} files, {rate:.0f}/s", file=sys.stderr)
    kept.save(only=files)
    return {file: kept.get(file, marks[file]) or [] for file in files}


class Kept:
    """A file of the cache: what was found in files, by a key, as long as the files are unchanged.

    Args:
      root: of the files; `kind` names what was looked for.
    """

    def __init__(self, root: str, kind: str):
        self._place = paths.cache_dir() / "folders" / f"{digest_of(f'{kind}:{_FORMAT}:{root}')[:16]}.json"
        self._lines, self._new, self._saved = _read(self._place), False, time.monotonic()

    def get(self, key: str, marks: list[list[int]]) -> list[Any] | None:
        """What was kept, None where there is nothing or a file has changed.

        Args:
          marks: from `marks_of` the files.
        """
        line = self._lines.get(key)
        return line[1:] if line is not None and line[0] == marks else None

    def put(self, key: str, marks: list[list[int]], values: Sequence[Any]) -> None:
        """Keeps what was found; writes the file once in a while."""
        self._lines[key], self._new = [marks, *values], True
        if time.monotonic() - self._saved > _SAVE_EVERY:
            _write(self._place, self._lines)
            self._saved = time.monotonic()

    def save(self, only: Sequence[str] | None = None) -> None:
        """Writes what is new.

        Args:
          only: keys that are still of use; all others are forgotten.
        """
        if self._new:
            _write(self._place, self._lines if only is None else {key: self._lines[key] for key in only})
            self._new = False


def marks_of(files: Sequence[str]) -> list[list[int]]:
    """What changes when one of the files (full paths) does: inode, size, times."""
    return [_marks_of_one(path) for path in files]


def _marks_of_one(path: str) -> list[int]:
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return [-1]
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        kept = json.loads(path.read_text())
        return {key: line for key, line in kept.items() if isinstance(line[0], list)}
    except (OSError, ValueError, AttributeError, TypeError, IndexError):
        return {}


def _write(path: Path, kept: Mapping[str, list[Any]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(kept))
        part.replace(path)
    except OSError:
        pass  # without a cache it is looked at again next time
