"""Predicted masks as files that other programs show: PNG of class ids with a palette."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cnn.figures import class_colours
from cnn.paths import output_folder
from cnn.transforms.masks import nearest


class MaskFolder:
    """Where masks are written, each under its picture's name; a name that comes twice gets a number.

    Raises:
      UserError: the folder cannot be written.
    """

    def __init__(self, folder: str):
        self.folder = output_folder(folder, "--masks")
        self._taken: dict[str, int] = {}

    def write(self, picture: str, mask: UInt8[np.ndarray, "h w"], size: tuple[int, int] | None = None) -> str:
        """Writes the mask of the file `picture`, at another `size` (h, w) where one is given; returns the path."""
        from PIL import Image

        if size is not None and size != mask.shape:
            mask = nearest(mask, *size)
        stem = Path(picture).stem
        number = self._taken[stem] = self._taken.get(stem, 0) + 1
        path = self.folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
        made = Image.fromarray(mask)
        made.putpalette(class_colours(256).tobytes())
        made.save(path)
        return str(path)
