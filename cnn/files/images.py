"""Image files of any kind -> RGB uint8 `h w 3`, or the reason why not."""

import io
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from cnn.files.checksums import PNG, Damaged, PngHeader, check_png, digest_of, png_pixels_are_whole
from cnn.files.regular import NotRegular, read_regular
from cnn.pixels import as_channels

EMPTY, NO_IMAGE, DAMAGED = "empty file", "not an image", "truncated or damaged"
TOO_LARGE, PIXEL_TYPE, UNREADABLE = "too many pixels", "unsupported pixel type", "cannot be opened"
MAX_PIXELS = 120_000_000  # of a decoded picture: at most 0.9 GB while it is decoded
MAX_FILE = 1 << 30  # bytes
# Pillow's names. Others run programs (EPS), have no mark to be known by (TGA) or are no pictures (PDF).
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "ICO", "PCX", "SGI")
_PHOTOMETRIC, _BITS, _SAMPLES = 262, 258, 339  # tags of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2


class BadImage(Exception):
    """An image file that cannot be used; the text is one of the reasons above, in brackets the details."""


class Seen(NamedTuple):
    """What one look at a file found: sizes in pixels, or 0 and the reason; `digest` is a hash of its content."""

    height: int
    width: int
    reason: str
    digest: str


def decode_image(file: str | os.PathLike | bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as people see it: EXIF rotation applied, alpha over white, 16 bits cut to 8, white-is-zero turned.

    Args:
      file: a path, or the content of a file.

    Raises:
      BadImage: with the reason.
    """
    from PIL import ImageOps

    content = file if isinstance(file, bytes) else content_of(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata; what matters is raised
        image, header = opened(content)
        tags = getattr(image, "tag_v2", {})  # of TIFF; turning the image loses them
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF: the pixels are fine
            pass
        try:
            pixels = _rgb(image, tags)
        except BadImage:
            raise
        except Exception as error:  # colour spaces without a way to RGB
            raise BadImage(f"{PIXEL_TYPE} ({image.mode})") from error
    check_last_rows(content, header, pixels)
    return pixels


def content_of(path: str | os.PathLike) -> bytes:
    """The bytes of a file.

    Raises:
      BadImage: it cannot be read, is no regular file, or empty.
    """
    try:
        content = read_regular(path, MAX_FILE)
    except NotRegular as error:
        raise BadImage(f"{UNREADABLE} ({error})") from error
    except OSError as error:
        raise BadImage(f"{UNREADABLE} ({error.strerror or error})") from error
    if not content:
        raise BadImage(EMPTY)
    return content


def opened(content: bytes, formats: tuple[str, ...] = FORMATS) -> tuple[Any, PngHeader | None]:
    """(Pillow's image, decoded; the header of a PNG). Sizes and checksums are looked at before a pixel is decoded.

    Raises:
      BadImage: with the reason.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise BadImage(EMPTY)
    header = None
    try:
        if content.startswith(PNG):
            header = check_png(content)
            _check_size(header.width, header.height)
        Image.init()
        image = Image.open(io.BytesIO(content), formats=[name for name in formats if name in Image.OPEN])
        _check_size(image.width, image.height)
        image.load()
    except UnidentifiedImageError as error:
        raise BadImage(NO_IMAGE) from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"{TOO_LARGE} (the limit is {MAX_PIXELS:,})") from error
    except Damaged as error:
        raise BadImage(f"{DAMAGED} ({error})") from error
    except BadImage:
        raise
    except Exception as error:  # damaged files make the decoders raise many different things
        raise BadImage(DAMAGED) from error
    return image, header


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(f"{TOO_LARGE} ({width}x{height}; the limit is {MAX_PIXELS:,})")


def check_last_rows(content: bytes, header: PngHeader | None, pixels: np.ndarray) -> None:
    """Raises BadImage for a PNG whose pixels end before its last row, which Pillow leaves black.

    Unpacking all of it a second time costs, so only what ends in black is looked at.
    """
    if header is not None and not pixels[-2:].any() and not png_pixels_are_whole(content, header):
        raise BadImage(f"{DAMAGED} (PNG: its pixels end early)")


def _rgb(image: Any, tags: Mapping[int, Any]) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode == "F":
        raise BadImage(f"{PIXEL_TYPE} (floating point)")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips instead of scaling
        return as_channels(_sixteen(image, tags)[..., None], 3)
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    return as_channels(pixels, 3)


def _sixteen(image: Any, tags: Mapping[int, Any]) -> UInt8[np.ndarray, "h w"]:
    """The upper 8 of 16 bits. Pillow turns white-is-zero for up to 8 bits alone."""
    pixels = np.asarray(image)
    if pixels.dtype.itemsize > 2:
        low, high = int(pixels.min()), int(pixels.max())
        if low < 0 or high > 65535:
            bits = f"{(tags.get(_BITS) or (32,))[0]}-bit"
            kind = "signed " * ((tags.get(_SAMPLES) or (0,))[0] == _SIGNED)
            raise BadImage(f"{PIXEL_TYPE} ({kind}{bits}, values {low} to {high})")
    pixels = (pixels >> 8).astype(np.uint8)
    return 255 - pixels if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else pixels


def inspect(path: str) -> Seen:
    """What is in a file; decodes all of it."""
    try:
        content = content_of(path)
    except BadImage as error:
        return Seen(0, 0, str(error), "")
    digest = digest_of(content)
    try:
        return Seen(*decode_image(content).shape[:2], "", digest)
    except BadImage as error:
        return Seen(0, 0, str(error), digest)
