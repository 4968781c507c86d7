"""Masks: the same class ids in every way of saving them, palettes of several orders, alpha, damage."""

import io

import numpy as np
import pytest
from PIL import Image

from cnn.files.images import BadImage
from cnn.files.masks import agreed_colours, decode_mask, look_at_mask
from tests.files.test_images import png

RED, GREEN, BLUE, BLACK, WHITE = "ff0000", "00ff00", "0000ff", "000000", "ffffff"


def saved(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def with_palette(ids, *colours):
    image = Image.fromarray(ids)
    flat = [int(colour[k : k + 2], 16) for colour in colours for k in (0, 2, 4)]
    image.putpalette(flat + [0] * (768 - len(flat)))
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def ids(count=4, seed=0):
    return np.random.default_rng(seed).integers(0, count, (7, 5), dtype=np.uint8)


def packed(values, depth):
    """Rows of PNG with so many bits per value, each with its filter byte."""
    bits = np.unpackbits(values[..., None], axis=-1)[..., 8 - depth :].reshape(len(values), -1)
    return b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_values_are_class_ids_in_every_depth(depth):
    """Two and four bits are spread over 0..255 by Pillow; the ids are what the file holds."""
    values = ids(min(1 << depth, 4))
    assert np.array_equal(decode_mask(png(5, 7, packed(values, depth), depth)), values)


@pytest.mark.parametrize("alpha", ["LA", "RGBA"])
def test_alpha_is_not_colour(alpha):
    for values in (ids(), ids(2) * 255):
        grey = Image.fromarray(values).convert(alpha)
        file = io.BytesIO()
        grey.save(file, "png")
        assert np.array_equal(decode_mask(file.getvalue()), values)
        see_through = np.asarray(grey).copy()
        see_through[values == 0, -1] = 0  # transparent where the background is
        assert np.array_equal(decode_mask(saved(see_through)), values)
        see_through = np.asarray(grey).copy()
        see_through[values > 0, -1] = 0
        with pytest.raises(BadImage, match="alpha channel"):
            decode_mask(saved(see_through))
    only = np.zeros((7, 5, 4 if alpha == "RGBA" else 2), np.uint8)
    only[..., -1] = ids(2) * 255
    with pytest.raises(BadImage, match="alpha channel"):
        decode_mask(saved(only))
    only[..., -1] = 0
    with pytest.raises(BadImage, match="alpha channel"):
        decode_mask(saved(only))
    colours = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)
    colours[..., 3] = 255
    with pytest.raises(BadImage, match="a colour picture"):
        decode_mask(saved(colours))


def test_colours_decide_where_palettes_differ_in_order(tmp_path):
    wanted = ids(3)
    swapped = np.array([2, 0, 1], np.uint8)[wanted]  # black is 2, red 0, green 1
    straight, odd = with_palette(wanted, BLACK, RED, GREEN), with_palette(swapped, RED, GREEN, BLACK)
    palettes = {}
    for name, content in {"a": straight, "b": straight, "c": straight, "d": odd}.items():
        (tmp_path / name).write_bytes(content)
        palettes[name] = look_at_mask(str(tmp_path / name)).palette
    colours, named = agreed_colours(palettes)
    assert colours == {BLACK: 0, RED: 1, GREEN: 2} and named == ["d"]
    assert np.array_equal(decode_mask(straight, colours), wanted)
    assert np.array_equal(decode_mask(odd, colours), wanted)
    assert agreed_colours({name: palettes["a"] for name in "abc"}) == ({}, [])
    assert agreed_colours({"a": {"0": BLACK, "1": RED}, "b": {"0": BLACK, "2": BLUE}}) == ({}, [])
    with pytest.raises(BadImage, match="#0000ff"):
        decode_mask(with_palette(wanted, BLACK, RED, BLUE), colours)


@pytest.mark.parametrize(
    "orders",
    [
        ([BLACK, RED], [RED, BLACK]),
        ([BLACK, RED, GREEN], [BLACK, GREEN, RED]),
        ([BLACK, RED], [BLACK, GREEN], [BLACK, BLUE]),
    ],
)
def test_palettes_that_do_not_agree_are_refused(orders):
    palettes = {f"{i}.png": {str(k): c for k, c in enumerate(order)} for i, order in enumerate(orders)}
    with pytest.raises(ValueError, match=r"index .*\.png"):
        agreed_colours(palettes)


def test_one_mask_alone_with_black_in_another_place_is_refused():
    pair = np.eye(4, dtype=np.uint8)
    assert np.array_equal(decode_mask(with_palette(pair, BLACK, RED)), pair)
    with pytest.raises(BadImage, match="black"):
        decode_mask(with_palette(1 - pair, RED, BLACK))
    assert np.array_equal(decode_mask(with_palette(pair, WHITE, RED)), pair)
    assert np.array_equal(decode_mask(with_palette(1 - pair, RED, BLACK), {}), 1 - pair)


def test_damage_and_kinds():
    whole = saved(ids())
    for content, said in (
        (whole[:-1], "ends"), (whole[:40], "ends"), (b"", "empty"), (b"BM" + bytes(40), "no PNG"),
        (whole.replace(b"IDAT", b"IDAx"), "checksum"), (png(5, 7, bytes(36)), "pixels end early"),
        (saved(np.full((4, 4), 300, np.uint16)), "above 255"),
    ):  # fmt: skip
        with pytest.raises(BadImage, match=said):
            decode_mask(content)
