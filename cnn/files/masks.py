"""Mask files: PNG of class ids -> uint8 `h w`, with the colours that a palette gives to them, and the way back."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from cnn.errors import UserError, printable
from cnn.features import IGNORE
from cnn.figures import class_colours
from cnn.files.checksums import PNG, PngHeader, digest_of
from cnn.files.images import BadImage, check_last_rows, content_of, opened

NOT_PNG, COLOURED, DEEP = "no PNG", "a colour picture, not class ids", "class ids above 255"
TRANSPARENT = "its alpha channel holds more than its grey values"
ORDER = "a palette in which black, the background, is not first"
Palette = dict[int, str]  # {class id: 'rrggbb'}


class Mask(NamedTuple):
    """Class ids, and for a file with a palette the colours of those that occur."""

    ids: UInt8[np.ndarray, "h w"]
    palette: Palette


class SeenMask(NamedTuple):
    """What one look at a file found: sizes, its values as text ('0 1 255') or 0 and the reason, a hash, its palette."""

    height: int
    width: int
    text: str
    digest: str
    palette: Mapping[str, str]


def decode_mask(
    file: str | os.PathLike | bytes, colours: Mapping[str, int] | None = None
) -> UInt8[np.ndarray, "h w"]:
    """The class ids of a mask.

    Args:
      file: a path, or the content of a file.
      colours: {'rrggbb': class id} of the set that a mask with a palette belongs to: its order of colours may differ
        from file to file. {}: the index in the palette is the class id. None: so it is, but a palette whose black is
        not first is refused.

    Raises:
      BadImage: with the reason.
    """
    ids, palette = read_mask(file)
    if colours is None:
        black = [index for index, colour in palette.items() if colour == "000000"]
        if black and 0 not in black:
            raise BadImage(ORDER)
    if not colours or not palette:
        return ids
    unknown = sorted(set(palette.values()) - set(colours))
    if unknown:
        raise BadImage(f"colours that other masks do not have (#{unknown[0]})")
    table = np.arange(256, dtype=np.uint8)
    for index, colour in palette.items():
        table[index] = colours[colour]
    return table[ids]


def read_mask(file: str | os.PathLike | bytes) -> Mask:
    """The values of a mask as they are stored: indices of a palette, grey values, also with alpha or as equal channels.

    Raises:
      BadImage: with the reason.
    """
    content = file if isinstance(file, bytes) else content_of(file)
    if content and not content.startswith(PNG):
        raise BadImage(NOT_PNG)
    image, header = opened(content, ("PNG",))
    assert header is not None
    palette = _palette(image)
    ids = _grey(np.asarray(image))
    if ids.max(initial=0) > IGNORE:
        raise BadImage(DEEP)
    ids = _unscaled(ids.astype(np.uint8), header)
    check_last_rows(content, header, ids)
    present = set(np.flatnonzero(np.bincount(ids.reshape(-1), minlength=256)).tolist())
    return Mask(ids, {index: colour for index, colour in palette.items() if index in present})


def _palette(image: Any) -> Palette:
    if image.mode not in ("P", "PA"):
        return {}
    flat = image.getpalette("RGB") or []
    return {i: "".join(f"{v:02x}" for v in flat[3 * i : 3 * i + 3]) for i in range(len(flat) // 3)}


def _grey(pixels: np.ndarray) -> np.ndarray:
    """One channel out of several: alpha is no colour, and equal channels are grey."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] in (2, 4):
        colour, alpha = pixels[..., :-1], pixels[..., -1]
        if (alpha != alpha.flat[0]).any() and (colour[alpha == 0].any() or (colour == colour.reshape(-1)[0]).all()):
            raise BadImage(TRANSPARENT)
        if not alpha.flat[0] and not alpha.any():
            raise BadImage(TRANSPARENT)
        pixels = colour
    if (pixels != pixels[..., :1]).any():
        raise BadImage(COLOURED)
    return pixels[..., 0]


def _unscaled(ids: UInt8[np.ndarray, "h w"], header: PngHeader) -> UInt8[np.ndarray, "h w"]:
    """Grey values of 2 and 4 bits as they are stored; Pillow spreads them over 0..255."""
    if header.colour == 0 and header.depth in (2, 4):
        return ids // np.uint8(255 // ((1 << header.depth) - 1))
    return ids


def look_at_mask(path: str) -> SeenMask:
    """What is in a file; decodes all of it."""
    try:
        content = content_of(path)
    except BadImage as error:
        return SeenMask(0, 0, str(error), "", {})
    try:
        ids, palette = read_mask(content)
    except BadImage as error:
        return SeenMask(0, 0, str(error), digest_of(content), {})
    values = np.flatnonzero(np.bincount(ids.reshape(-1), minlength=256))
    colours = {str(index): colour for index, colour in palette.items()}
    return SeenMask(*ids.shape, " ".join(map(str, values)), digest_of(content), colours)


def agreed_colours(palettes: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, int], list[str]]:
    """({colour: class id} of a set of masks, files whose palette has another order); ({}, []) where all agree.

    The order that more than two thirds of the masks have decides; the others are read by their colours.

    Args:
      palettes: of each file, as `SeenMask.palette`.

    Raises:
      ValueError: there is no such order; the text says which colours disagree.
    """
    orders: dict[str, set[str]] = {}  # {index: colours}
    votes: dict[str, dict[int, list[str]]] = {}  # {colour: {index: files}}
    for file, palette in palettes.items():
        for index, colour in palette.items():
            orders.setdefault(index, set()).add(colour)
            votes.setdefault(colour, {}).setdefault(int(index), []).append(file)
    if all(len(found) == 1 for found in orders.values()):
        return {}, []
    colours: dict[str, int] = {}
    for colour, found in votes.items():
        index, files = max(found.items(), key=lambda item: len(item[1]))
        if 3 * len(files) <= 2 * sum(map(len, found.values())):
            said = ", ".join(f"{i} in {len(names)} masks ({names[0]})" for i, names in sorted(found.items())[:3])
            raise ValueError(f"the colour #{colour} has index {said}")
        if index in colours.values():
            raise ValueError(f"index {index} is #{colour} in {files[0]} and another colour elsewhere")
        colours[colour] = index
    odd = [file for file, own in palettes.items() if any(colours[c] != int(i) for i, c in own.items())]
    return colours, odd


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
        raise UserError(f"cannot write {printable(path)}: {error.strerror or error}") from error
