"""Only regular files are ever opened: a pipe would block, a device never ends.

The one place where files of users are told from everything else. `stat` looks before anything is opened, because
opening a pipe without a writer already waits, and `fstat` looks again at what was opened.
"""

import os
import stat
from typing import BinaryIO

FOLDER, PIPE, SOCKET, DEVICE = "a folder, not a file", "a pipe, not a file", "a socket, not a file", "a device"
NOT_THERE = "no such file"
TOO_LARGE = "too large"
_KINDS = (
    (stat.S_ISDIR, FOLDER),
    (stat.S_ISFIFO, PIPE),
    (stat.S_ISSOCK, SOCKET),
    (stat.S_ISCHR, DEVICE),
    (stat.S_ISBLK, DEVICE),
)
MAX_BYTES = 4 << 30  # of a file that is read whole, where its reader names no other limit


class NotRegular(OSError):
    """A path that is no regular file, or one that is larger than its reader allows; `strerror` says why."""

    def __init__(self, reason: str, path: str | os.PathLike):
        super().__init__(None, reason, os.fspath(path))

    def __str__(self) -> str:
        return str(self.strerror)


def why_not(path: str | os.PathLike) -> str:
    """'' for a regular file or a link to one, else the reason: missing, a folder, a pipe, a device, not permitted."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return NOT_THERE
    except ValueError:  # a zero byte in the name
        return NOT_THERE
    except OSError as error:
        return error.strerror or str(error)
    return _reason(mode)


def is_regular(path: str | os.PathLike) -> bool:
    """Whether the path is a regular file, or a link to one."""
    return not why_not(path)


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """The file, opened for reading.

    Raises:
      NotRegular: it is missing, or something else than a file.
      OSError: it cannot be opened.
    """
    reason = why_not(path)
    if reason:
        raise NotRegular(reason, path)
    # Without blocking, so that a pipe put in its place meanwhile cannot hold the process.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    reason = _reason(os.fstat(descriptor).st_mode)
    if reason:
        os.close(descriptor)
        raise NotRegular(reason, path)
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | os.PathLike, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file.

    Args:
      limit: bytes above which nothing is read.

    Raises:
      NotRegular: as `open_regular`, or it is larger than `limit`.
      OSError: it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise NotRegular(f"{TOO_LARGE} ({size:,} bytes, the limit is {limit:,})", path)
        content = file.read(limit + 1)  # files of the kernel say 0 bytes and hold more
    if len(content) > limit:
        raise NotRegular(f"{TOO_LARGE} (the limit is {limit:,} bytes)", path)
    return content


def _reason(mode: int) -> str:
    if stat.S_ISREG(mode):
        return ""
    return next((reason for is_kind, reason in _KINDS if is_kind(mode)), "not a file")
