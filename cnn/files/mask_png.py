"""Masks of pictures as files that other programs show: PNG of class ids with a palette."""

import os

import numpy as np
from jaxtyping import UInt8

from cnn.errors import UserError
from cnn.figures import class_colours


def write_mask(path: str | os.PathLike[str], mask: UInt8[np.ndarray, "h w"]) -> None:
    """Writes class ids as a PNG with a palette (`cnn.figures.class_colours`).

    Raises:
      UserError: the place cannot be written.
    """
    from PIL import Image

    made = Image.fromarray(mask)
    made.putpalette(class_colours(256).tobytes())
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        made.save(path, format="PNG")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
