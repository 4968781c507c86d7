"""Image files of any kind -> RGB uint8 `h w 3`, or the reason why not."""

import io
import os
import warnings
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cnn.pixels import as_channels

EMPTY, NO_IMAGE, DAMAGED = "empty file", "not an image", "truncated or damaged"
TOO_LARGE, PIXEL_TYPE, UNREADABLE = "too many pixels", "unsupported pixel type", "cannot be opened"


class BadImage(Exception):
    """An image file that cannot be used; the text is one of the reasons above."""


def decode_image(file: str | os.PathLike | bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as people see it: EXIF rotation applied, alpha over white, 16 bits cut to 8.

    Args:
      file: a path, or the content of a file.

    Raises:
      BadImage: with the reason.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        content = file if isinstance(file, bytes) else _content(file)
    except OSError as error:
        raise BadImage(f"{UNREADABLE} ({error.strerror or error})") from error
    if not content:
        raise BadImage(EMPTY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata; what matters is raised
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        except UnidentifiedImageError as error:
            raise BadImage(NO_IMAGE) from error
        except Image.DecompressionBombError as error:
            raise BadImage(TOO_LARGE) from error
        except Exception as error:  # damaged files make the decoders raise many different things
            raise BadImage(DAMAGED) from error
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF: the pixels are fine
            pass
        return _rgb(image)


def _content(path: str | os.PathLike) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _rgb(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode == "F":
        raise BadImage(f"{PIXEL_TYPE} (floating point)")
    if image.mode.startswith("I"):  # 16 bits; PIL's own conversion clips instead of scaling
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise BadImage(f"{PIXEL_TYPE} (32-bit)")
        return as_channels((pixels >> 8).astype(np.uint8)[..., None], 3)
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    return as_channels(pixels, 3)


def inspect(path: str) -> tuple[int, int, str]:
    """(height, width, '') of a file that can be used, else (0, 0, reason). Decodes all of it."""
    try:
        return (*decode_image(path).shape[:2], "")
    except BadImage as error:
        return 0, 0, str(error)
