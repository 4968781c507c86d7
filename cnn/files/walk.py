"""Finding files below folders: one walker for training, checking and predicting."""

import os
from collections.abc import Iterator

from cnn.errors import UserError, printable

IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # what systems and archivers leave behind


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is never data."""
    return name.startswith(".") or name.lower() in IGNORED


def entries(folder: str) -> list[str]:
    """Names in a folder, without hidden ones."""
    return [entry.name for entry in _listed(folder)]


def folders(folder: str) -> list[str]:
    """Names of the folders in a folder."""
    return [entry.name for entry in _listed(folder) if _is_folder(entry)]


def walk(root: str, folder: str = "") -> Iterator[str]:
    """Files below `folder` of `root`, as paths relative to the root with '/'; see `by_folder`."""
    for place, files in by_folder(os.path.join(root, folder) if folder else root):
        for name in files:
            yield os.path.relpath(os.path.join(place, name), root).replace(os.sep, "/")


def by_folder(root: str) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of a folder and all below it, both sorted by name.

    Links are followed, to each folder once, so that circles end. Pipes, sockets and devices are left out; links that
    lead nowhere are kept, for the reader to report.

    Raises:
      UserError: a folder that cannot be listed.
    """
    seen, waiting = set(), [root]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        files, inside = [], []
        for entry in _listed(place):
            if _is_folder(entry):
                inside.append(entry.path)
            elif not _is_special(entry):
                files.append(entry.name)
        yield place, files
        waiting += reversed(inside)


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"the folder {printable(folder)} cannot be listed: {error.strerror or error}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    try:
        return not (entry.is_file() or entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return False
