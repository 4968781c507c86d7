"""Images as arrays, uint8 `h w c` in 0..255: their size and their channels. Below readers and transforms."""

import numpy as np
from jaxtyping import UInt8

from cnn.errors import UserError

METHODS = ("area", "bilinear", "bicubic")
MAX_PIXELS = 1 << 26  # of what resizing makes larger


def resized(
    image: UInt8[np.ndarray, "h w c"], height: int, width: int, method: str = "area"
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Resizes: 'area' with cv2 (averages where it shrinks, linear where it grows; the fastest), 'bilinear' and
    'bicubic' with Pillow, whose filters widen where it shrinks, as torchvision, timm and published weights have it.

    Raises:
      UserError: it would become larger than MAX_PIXELS.
    """
    import cv2

    if image.shape[:2] == (height, width):
        return image
    if height * width > max(MAX_PIXELS, image.shape[0] * image.shape[1]):
        raise UserError(
            f"resizing an image of {image.shape[0]}x{image.shape[1]} to {height}x{width} makes too many pixels (the "
            f"limit is {MAX_PIXELS:,}); crop it first"
        )
    if method != "area":
        return _filtered(image, height, width, method)
    cv2.setNumThreads(0)  # the pipeline has its own threads
    shrinks = height * width < image.shape[0] * image.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    result = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=way)
    return result.reshape(height, width, image.shape[2])  # cv2 drops an axis of one channel


def _filtered(
    image: UInt8[np.ndarray, "h w c"], height: int, width: int, method: str
) -> UInt8[np.ndarray, "h2 w2 c"]:
    from PIL import Image

    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[method]
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), how))
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, -1)


def as_channels(
    image: UInt8[np.ndarray, "... h w c"], count: int
) -> UInt8[np.ndarray, "... h w c2"]:
    """`image` with `count` (1 or 3) channels."""
    have = image.shape[-1]
    if have not in (1, 2, 3, 4):
        raise UserError(f"an image with {have} channels is neither grey nor RGB")
    if have in (2, 4):  # over white
        alpha = image[..., -1:].astype(np.uint16)
        blended = (image[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255
        image = blended.astype(np.uint8)
    if image.shape[-1] == count:
        return image
    if count == 3:
        return np.repeat(image, 3, axis=-1)
    weights = np.array([19595, 38470, 7471], np.uint32)  # sum 2**16, exact on every machine
    luma = (image.astype(np.uint32) * weights).sum(-1, keepdims=True, dtype=np.uint32)
    return ((luma + 32768) >> 16).astype(np.uint8)
