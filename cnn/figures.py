"""Matplotlib figures without pyplot, which would keep global state and may look for a screen; colours of masks."""

from typing import Any

import numpy as np
from jaxtyping import Integer, Num, UInt8


def figure(width: float, height: float, layout: str = "constrained") -> Any:
    """An empty `matplotlib.figure.Figure` of so many inches that draws itself with Agg.

    Args:
      layout: 'constrained' places the axes; 'none' leaves that to the caller.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(made)
    return made


def class_colours(classes: int) -> UInt8[np.ndarray, "k 3"]:
    """A colour per class, black for class 0, the next ones as different as can be: bits of the number, as in the
    palettes of PASCAL VOC's masks, but twice as light.
    """
    number = np.arange(classes)
    colours = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((number >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return np.minimum(2 * colours.astype(np.uint16), 255).astype(np.uint8)


def grey_or_rgb(image: Num[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """An input as three channels of bytes: floats are stretched, of other than three channels the first is shown."""
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = np.uint8(255 * (image - low) / (high - low or 1.0))
    return np.ascontiguousarray(image) if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)


def overlay(image: UInt8[np.ndarray, "h w 3"], mask: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with the classes of its mask in their colours; class 0 stays clear, IGNORE (255) becomes white."""
    colours = class_colours(256)
    colours[255] = 255
    tinted = (image.astype(np.uint16) * 2 + colours[mask].astype(np.uint16) * 3) // 5
    return np.where((mask == 0)[..., None], image, tinted.astype(np.uint8))
