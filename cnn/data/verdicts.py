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

_FORMAT = 3  # raise it when what readers find in an unchanged file changes
_SAVE_EVERY = 5000  # files
_SAY_EVERY = 5.0  # seconds
_MARK = 4  # numbers of `_marks`


def verdicts(
    files: Sequence[str], root: str, kind: str, look: Callable[[str], Sequence[Any]], keep: bool = False
) -> dict[str, list[Any]]:
    """{file: what `look` found in it}, in this order; threads look at those that are new or changed.

    Args:
      files: paths relative to `root`, each once.
      kind: names what is looked for; each kind has a cache of its own.
      look: from a full path to values that JSON holds.
      keep: whether verdicts on files that are not in `files` stay in the cache.
    """
    kept_in = _place(root, kind)
    kept = _read(kept_in)
    marks = {file: _marks(os.path.join(root, file)) for file in files}
    todo = [file for file in files if file not in kept or kept[file][:_MARK] != marks[file]]
    began = shown = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda file: look(os.path.join(root, file)), todo)
        for i, (file, values) in enumerate(zip(todo, found, strict=True), 1):
            kept[file] = [*marks[file], *values]
            if i % _SAVE_EVERY == 0:
                _write(kept_in, kept)
            if time.monotonic() - shown > _SAY_EVERY:
                shown = time.monotonic()
                rate = i / (shown - began)
                print(f"{printable(root)}: checked {i} of {len(todo)} files, {rate:.0f}/s", file=sys.stderr)
    if todo:
        _write(kept_in, kept if keep else {file: kept[file] for file in files})
    return {file: kept[file][_MARK:] for file in files}


def _place(root: str, kind: str) -> Path:
    return paths.cache_dir() / "folders" / f"{digest_of(f'{kind}:{_FORMAT}:{root}')[:16]}.json"


def _marks(path: str) -> list[int]:
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return [-1] * _MARK
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        kept = json.loads(path.read_text())
        return {file: line for file, line in kept.items() if len(line) > _MARK}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: Path, kept: Mapping[str, list[Any]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(kept))
        part.replace(path)
    except OSError:
        pass  # without a cache it is looked at again next time
