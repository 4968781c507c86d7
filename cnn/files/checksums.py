"""The checksums that formats bring (gzip, PNG), read to their end: a file that fails one is damaged.

Decoders stop as soon as they have what they need. nibabel never reaches the CRC of a gzip file, Pillow skips those of
the pixels of a PNG and takes a stream of pixels that ends early for a whole one, its last rows black. Zip members are
checked by `zipfile` where they are read whole (`cnn.convert.zip_limits`, `numpy.load`).

`digest_of` is our own: a hash by which a changed file is known.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from cnn.files.regular import open_regular

GZIP = b"\x1f\x8b"
PNG = b"\x89PNG\r\n\x1a\n"
_AS_GZIP = 31  # zlib's number for a gzip header and its CRC
_TAKE, _STEP = 1 << 16, 1 << 20  # bytes that are given to zlib and unpacked by it at a time
_DEFLATE_RATIO = 1032  # what deflate can gain at most
_BITS = {(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16),
         (6, 8), (6, 16)}  # fmt: skip
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Damaged(Exception):
    """Content that does not agree with its own checksums or sizes; the text says which."""


def gunzip(content: bytes, limit: int) -> bytes:
    """The content of a gzip file, all members of it, with every CRC and length checked.

    Args:
      limit: bytes that it may unpack to.

    Raises:
      Damaged: it is cut, a checksum is wrong, or it unpacks to more than `limit`.
    """
    found, room = [], limit
    for part in _unpacked(memoryview(content)):
        found.append(part)
        room -= len(part)
        if room < 0:
            raise Damaged(f"gzip: it unpacks to more than {limit:,} bytes")
    return b"".join(found)


def gunzip_start(content: bytes, count: int) -> bytes:
    """The first `count` bytes of what a gzip file unpacks to, of which `content` may be the beginning alone.

    Raises:
      Damaged: it is broken before them.
    """
    start = b""
    for part in _unpacked(memoryview(content), step=count):
        start += part
        if len(start) >= count:
            break
    return start[:count]


def _unpacked(view: memoryview, step: int = _STEP) -> Iterator[bytes]:
    """Parts of at most `step` bytes, member after member."""
    place = 0
    while place < len(view):
        unpacker = zlib.decompressobj(_AS_GZIP)
        while not unpacker.eof:
            given = unpacker.unconsumed_tail or view[place : place + _TAKE]
            place += 0 if unpacker.unconsumed_tail else len(given)
            if not given:
                raise Damaged("gzip: it ends early")
            try:
                yield unpacker.decompress(given, step)
            except zlib.error as error:
                raise Damaged(f"gzip: {_reason(error)}") from error
        place -= len(unpacker.unused_data)
        while place < len(view) and not view[place]:  # tapes fill their blocks with zeros
            place += 1


def _reason(error: zlib.error) -> str:
    return str(error).rpartition(": ")[2]


class PngHeader(NamedTuple):
    """What IHDR says: sizes in pixels, bits per channel, colour type (0 grey, 2 RGB, 3 palette, 4 LA, 6 RGBA)."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def unpacked(self) -> int:
        """Bytes of its filtered rows, which is what its compressed data unpack to."""
        bits = self.depth * _CHANNELS[self.colour]
        passes = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        total = 0
        for x, y, across, down in passes:
            columns, rows = -(-(self.width - x) // across), -(-(self.height - y) // down)
            if columns > 0 and rows > 0:
                total += rows * (1 + (columns * bits + 7) // 8)
        return total


def check_png(content: bytes) -> PngHeader:
    """Checks the CRC of every chunk, that the file ends with IEND, and that its pixels can be in so few bytes.

    Raises:
      Damaged: with the chunk.
    """
    header, packed, place = None, 0, len(PNG)
    while True:
        if place + 12 > len(content):
            raise Damaged("PNG: it ends early")
        (length,) = struct.unpack_from(">I", content, place)
        kind, end = content[place + 4 : place + 8], place + 12 + length
        if end > len(content):
            raise Damaged(f"PNG: it ends in a chunk {_name(kind)}")
        (stored,) = struct.unpack_from(">I", content, end - 4)
        if zlib.crc32(memoryview(content)[place + 4 : end - 4]) != stored:
            raise Damaged(f"PNG: wrong checksum of a chunk {_name(kind)}")
        if header is None:
            header = _png_header(kind, content[place + 8 : end - 4])
        packed += length if kind == b"IDAT" else 0
        place = end
        if kind == b"IEND":
            break
    if header.unpacked > packed * _DEFLATE_RATIO:
        raise Damaged(f"PNG: {packed} bytes cannot hold {header.width}x{header.height} pixels")
    return header


def _png_header(kind: bytes, body: bytes) -> PngHeader:
    if kind != b"IHDR" or len(body) != 13:
        raise Damaged("PNG: it does not begin with its header")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
    if not width or not height or (colour, depth) not in _BITS or interlaced > 1:
        raise Damaged("PNG: its header is not valid")
    return PngHeader(width, height, depth, colour, bool(interlaced))


def _name(kind: bytes) -> str:
    return "".join(chr(c) if 65 <= c <= 122 else "?" for c in kind)


def png_pixels_are_whole(content: bytes, header: PngHeader) -> bool:
    """Whether the compressed data of a PNG that passed `check_png` unpack to all of its rows; unpacks them."""
    unpacker, size, place = zlib.decompressobj(), 0, len(PNG)
    while not unpacker.eof:
        (length,) = struct.unpack_from(">I", content, place)
        kind = content[place + 4 : place + 8]
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            rest = content[place + 8 : place + 8 + length]
            while rest and not unpacker.eof:
                try:
                    size += len(unpacker.decompress(rest, _STEP))
                except zlib.error:
                    return False
                rest = unpacker.unconsumed_tail
        place += 12 + length
    while not unpacker.eof and size < header.unpacked:
        part = unpacker.decompress(b"", _STEP)
        if not part:
            break
        size += len(part)
    return size >= header.unpacked


def digest_of(content: bytes | str) -> str:
    """32 hex digits of the content of a file, or of text."""
    content = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_of_file(path: str | os.PathLike) -> str:
    """`digest_of` its content, which is not held in memory.

    Raises:
      OSError: it cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
