"""Zip files of strangers: what they unpack to is bounded by what they are."""

import io
import zipfile

from cnn.convert.pickle_stream import Refused

MAX_RATIO = 20  # unpacked against packed, of the whole file: weights hardly compress, zeros do
SLACK = 2**20
MAX_MEMBERS = 200_000


def open_zip(file: io.BufferedIOBase, size: int) -> zipfile.ZipFile:
    """The archive, after its directory was checked; of the rest nothing is read.

    Args:
      size: bytes of the file.

    Raises:
      Refused: it is damaged, encrypted, or would unpack to far more than it is (a zip bomb).
    """
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # a damaged directory makes zipfile raise many types
        raise Refused(f"it is a damaged or truncated zip file ({str(error)[:80]})") from error
    total = sum(info.file_size for info in archive.infolist())
    if total > MAX_RATIO * size + SLACK:
        raise Refused(f"it would unpack to {total} bytes, {total // size} times its size (a zip bomb?)")
    if len(archive.infolist()) > MAX_MEMBERS:
        raise Refused(f"it has more than {MAX_MEMBERS} members")
    if any(info.flag_bits & 1 for info in archive.infolist()):
        raise Refused("it is encrypted")
    if len(set(archive.namelist())) != len(archive.namelist()):
        raise Refused("it holds two members of the same name")
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One member, with its checksum checked; never more bytes than its directory entry says.

    Raises:
      Refused: it is damaged.
    """
    try:
        return archive.read(name)
    except Exception as error:  # wrong checksum, broken stream, unknown compression, overlapping members
        raise Refused(f"its member '{name[:60]}' is damaged ({str(error)[:80]})") from error
