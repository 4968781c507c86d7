"""Pictures: checksums read to their end, limits on pixels, photometric interpretation, what is no picture."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnn.files import images
from cnn.files.images import BadImage, decode_image


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels, kind="png", **options):
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, rows, depth=8, colour=0, interlaced=0):
    """A PNG whose header and data need not agree."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_every_flipped_bit_of_a_png_is_noticed():
    whole = encoded(noise(6, 5, 3))
    assert decode_image(whole).shape == (6, 5, 3)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(BadImage):
            decode_image(bytes(damaged))


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (2, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 4), (8, 6)])
def test_pixels_that_end_early_are_damage(depth, colour, interlaced):
    """Pillow takes a stream of pixels that ends early for a whole picture with black rows."""
    from cnn.files.checksums import PngHeader

    header = PngHeader(13, 11, depth, colour, bool(interlaced))
    dark = bytes(header.unpacked)
    assert not decode_image(png(13, 11, dark, depth, colour, interlaced)).max() or colour in (4, 6)
    for missing in (1, header.unpacked // 4, header.unpacked // 2):
        with pytest.raises(BadImage, match="truncated or damaged"):
            decode_image(png(13, 11, dark[:-missing], depth, colour, interlaced))


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm", "jpeg2000"])
def test_a_cut_picture_is_damaged(kind):
    whole = encoded(noise(40, 30, 3), kind)
    for keep in (0.3, 0.6, 0.9):
        with pytest.raises(BadImage):
            decode_image(whole[: int(keep * len(whole))])


def test_few_bytes_with_many_pixels_are_refused_before_they_are_decoded():
    for width, said in ((13_300, "cannot hold 13300x13300"), (8_000, "cannot hold 8000x8000")):
        content = png(width, width, bytes(100), 1)
        assert len(content) < 130
        with pytest.raises(BadImage, match=said):
            decode_image(content)
    with pytest.raises(BadImage, match=r"too many pixels \(20000x10000; the limit is 120,000,000\)"):
        decode_image(png(20_000, 10_000, bytes(10_000 * 2_501), 1))
    header = bytearray(encoded(noise(8, 8, 3), "bmp"))
    header[18:26] = struct.pack("<ii", 60_000, 60_000)
    with pytest.raises(BadImage, match="too many pixels"):
        decode_image(bytes(header))


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(noise(8, 8, 3)))
    monkeypatch.setattr(images, "MAX_FILE", 100)
    with pytest.raises(BadImage, match="too large"):
        decode_image(tmp_path / "a.png")


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "endless.png")
    for name, said in {"pipe.png": "a pipe", "endless.png": "a device", "none.png": "no such file"}.items():
        with pytest.raises(BadImage, match=f"cannot be opened .{said}"):
            decode_image(tmp_path / name)
        assert images.inspect(str(tmp_path / name))[:2] == (0, 0)


def tiff(pixels, photometric, bits, sample_format=1):
    """An uncompressed grey TIFF of these pixels."""
    height, width = pixels.shape
    data = pixels.astype(f"<{'i' if sample_format == 2 else 'u'}{bits // 8}").tobytes()
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
               (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, sample_format)]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    start = 8 + len(data)
    return b"II*\0" + struct.pack("<I", start) + data + struct.pack("<H", len(entries)) + table + bytes(4)


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_is_turned_in_every_depth(bits):
    pixels = noise(5, 4).astype(np.uint16) * (257 if bits == 16 else 1)
    top = (1 << bits) - 1
    wanted = np.repeat((pixels >> (bits - 8)).astype(np.uint8)[..., None], 3, 2)
    assert np.array_equal(decode_image(tiff(pixels, 1, bits)), wanted)
    assert np.array_equal(decode_image(tiff(top - pixels, 0, bits)), wanted)


def test_numbers_that_are_no_pixels_are_named():
    with pytest.raises(BadImage, match=r"unsupported pixel type \(signed 16-bit, values -3 to -3\)"):
        decode_image(tiff(np.full((4, 4), -3), 1, 16, 2))
    with pytest.raises(BadImage, match=r"unsupported pixel type \(32-bit, values 70000 to 70000\)"):
        decode_image(tiff(np.full((4, 4), 70_000), 1, 32))
    with pytest.raises(BadImage, match="floating point"):
        decode_image(encoded(np.zeros((4, 4), np.float32), "tiff"))


def test_formats_that_run_programs_or_are_none_are_no_images():
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    for content in (drawing, b"%PDF-1.4\n", bytes(2) + b"\2" + bytes(60), b"<svg/>"):
        with pytest.raises(BadImage, match="not an image"):
            decode_image(content)
    with pytest.raises(BadImage, match="empty file"):
        decode_image(b"")


def test_colour_spaces_that_have_no_way_to_rgb_are_one_line():
    lab = Image.fromarray(noise(4, 4, 3)).convert("RGB")
    content = encoded(Image.merge("LAB", lab.split()), "tiff")
    try:
        assert decode_image(content).shape == (4, 4, 3)
    except BadImage as error:
        assert "LAB" in str(error)
