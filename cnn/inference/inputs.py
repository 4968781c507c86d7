"""Which files a command is about: files, folders and globs, for every verb that takes them."""

import glob
import os
from collections.abc import Iterator, Sequence

from cnn.errors import UserError, printable
from cnn.files.walk import IGNORED, by_folder
from cnn.inference.readers import READERS, Reader


def find(paths: Sequence[str | os.PathLike[str]], kind: str) -> list[str]:
    """The inputs that files, folders and globs stand for, each once; sorted within each of `paths`.

    A file that is named is taken whatever its suffix; of folders those files that the reader of this kind takes, at any
    depth, and folders that are one input (DICOM slices). Hidden files are left out, links are followed without circles.

    Args:
      kind: a key of READERS.

    Raises:
      UserError: one of the paths stands for nothing, or nothing reads files of this kind.
    """
    if kind not in READERS:
        raise UserError(f"this network takes inputs of kind '{kind}', which no reader takes from files; use cnn.load")
    found: dict[str, None] = {}
    for path in map(os.fspath, paths):
        here = dict.fromkeys(_meant(path, READERS[kind]))
        if not here:
            raise _nothing(path, READERS[kind])
        found |= here
    return list(found)


def _meant(path: str, reader: Reader) -> Iterator[str]:
    if os.path.isdir(path):
        yield from _below(path, reader)
    elif os.path.lexists(path):
        yield path
    else:
        for match in sorted(glob.glob(path, recursive=True)):  # without names that begin with a dot
            if not any(part.lower() in IGNORED for part in match.split(os.sep)):
                yield from _below(match, reader) if os.path.isdir(match) else [match]


def _below(folder: str, reader: Reader) -> Iterator[str]:
    for place, names in by_folder(folder):
        files = [os.path.join(place, name) for name in names]
        if reader.folder and reader.folder(files):
            yield place
        yield from filter(reader.takes, files)


def _nothing(path: str, reader: Reader) -> UserError:
    shown = printable(path)
    if os.path.isdir(path):
        what = "/".join(reader.suffixes[:3]) + " files"
        return UserError(f"'{shown}' holds no {what}" + (f" and no {reader.folder_of}" if reader.folder_of else ""))
    if glob.has_magic(path):
        return UserError(f"'{shown}' is no file, and as a pattern it has no match")
    return UserError(f"'{shown}' does not exist; give files, folders or quoted globs")
