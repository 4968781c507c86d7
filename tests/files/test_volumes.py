"""Volume files: NIfTI in every orientation, byte order and compression; DICOM series; what is refused and why."""

import gzip
import itertools
import sys

import nibabel as nib
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.files.dicom import read_dicom
from cnn.files.volumes import BadVolume, facts, read_mask, read_nifti, write_nifti
from tests.support.volumes import series

SHAPE, SPACING = (5, 6, 7), (1.0, 2.0, 3.0)  # x y z


def content(dtype=np.int16):
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def saved(path, voxels, affine=None, byte_order="<"):
    affine = np.diag([*SPACING, 1.0]) if affine is None else affine
    header = nib.Nifti1Header(endianness=byte_order)
    header.set_data_dtype(voxels.dtype)
    nib.save(nib.Nifti1Image(voxels, affine, header), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_byte_orders_and_types(tmp_path, suffix, byte_order, dtype):
    path = saved(tmp_path / f"a{suffix}", content(dtype), byte_order=byte_order)
    if suffix == ".nii":
        assert (path.read_bytes()[:2] == b"\x00\x00") == (byte_order == ">"), "the header is in the wrong order"
    found = read_nifti(path)
    assert found.voxels.dtype == np.float32 and found.voxels.shape == (7, 6, 5, 1)
    assert np.array_equal(found.voxels[..., 0], content("float32").transpose(2, 1, 0))
    assert found.spacing == (3.0, 2.0, 1.0)
    assert facts(path)[:2] == ((7, 6, 5), (3.0, 2.0, 1.0))


ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::3])
def test_every_orientation_is_the_same_volume_and_goes_back(tmp_path, order, signs):
    """The file's axes turned and mirrored: in memory nothing changes, and a mask written `like` it lies over it."""
    straight = read_nifti(saved(tmp_path / "straight.nii", content()))
    start = np.column_stack([[0, 1, 2], [1, 1, 1]]).astype(float)
    turn = np.column_stack([order, signs]).astype(float)
    voxels = nib.orientations.apply_orientation(content(), turn)
    affine = np.diag([*SPACING, 1.0]) @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    path = saved(tmp_path / "turned.nii.gz", voxels, affine)
    assert np.array_equal(nib.orientations.io_orientation(np.diag([*SPACING, 1.0])), start)
    found = read_nifti(path)
    assert np.array_equal(found.voxels, straight.voxels)
    assert np.allclose(found.affine, straight.affine) and facts(path)[:2] == ((7, 6, 5), found.spacing)
    mask = (found.voxels[..., 0] > 100).astype(np.uint8)
    write_nifti(tmp_path / "mask.nii.gz", mask, found.affine, like=path)
    there = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(there.dataobj), voxels > 100)
    assert np.allclose(there.affine, affine) and there.get_data_dtype() == np.uint8
    assert np.array_equal(read_mask(tmp_path / "mask.nii.gz").voxels, mask)


def test_an_oblique_affine_survives(tmp_path):
    cos, sin = np.cos(0.3), np.sin(0.3)
    affine = np.array([[cos, -sin, 0, 4], [sin, cos, 0, 5], [0, 0, 1, 6], [0, 0, 0, 1]]) @ np.diag([*SPACING, 1])
    found = read_nifti(saved(tmp_path / "a.nii", content(), affine))
    assert found.spacing == pytest.approx((3.0, 2.0, 1.0), abs=1e-5)
    write_nifti(tmp_path / "b.nii", found.voxels[..., 0], found.affine)
    assert np.allclose(nib.load(tmp_path / "b.nii").affine, affine, atol=1e-6)
    point = np.array([2, 3, 4, 1])  # d h w
    assert np.allclose(found.affine @ point, affine @ point[[2, 1, 0, 3]], atol=1e-5)


def test_slope_and_intercept(tmp_path):
    image = nib.Nifti1Image(content(), np.eye(4))
    image.header.set_slope_inter(0.5, -1000)
    image.to_filename(tmp_path / "a.nii")
    wanted = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
    assert np.allclose(read_nifti(tmp_path / "a.nii").voxels[..., 0], wanted.transpose(2, 1, 0))


def test_four_dimensions(tmp_path):
    four = np.stack([content(), content() + 1], -1)
    path = saved(tmp_path / "a.nii", four)
    with pytest.raises(BadVolume, match=r"4-D \(5, 6, 7, 2\)"):
        read_nifti(path)
    assert read_nifti(path, "first").voxels.shape == (7, 6, 5, 1)
    both = read_nifti(path, "all").voxels
    assert both.shape == (7, 6, 5, 2) and np.array_equal(both[..., 1], both[..., 0] + 1)
    with pytest.raises(BadVolume, match="4-D"):
        read_mask(path)
    assert read_nifti(saved(tmp_path / "b.nii", content()[..., None])).voxels.shape == (7, 6, 5, 1)


def test_what_is_refused(tmp_path):
    path = saved(tmp_path / "whole.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    (tmp_path / "cut.nii.gz").write_bytes(path.read_bytes()[:2000])
    (tmp_path / "text.nii").write_text("not a volume")
    saved(tmp_path / "flat.nii", np.zeros((5, 6), np.int16))
    saved(tmp_path / "colour.nii", np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    header = bytearray(saved(tmp_path / "nowhere.nii", content()).read_bytes())
    header[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    (tmp_path / "nowhere.nii").write_bytes(header)
    reasons = {
        "cut.nii.gz": "damaged", "text.nii": "NIfTI", "flat.nii": "not 3-D", "missing.nii": "no such file",
        "colour.nii": "RGB", "nowhere.nii": "invertible",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(BadVolume, match=reason):
            read_nifti(tmp_path / name)
    for values in ([0.5], [300], [-1], [np.nan]):
        with pytest.raises(BadVolume, match="whole numbers"):
            read_mask(saved(tmp_path / "mask.nii", np.full((2, 2, 2), values[0], np.float32)))


def test_writing_says_what_is_wrong(tmp_path):
    path = saved(tmp_path / "a.nii", content())
    with pytest.raises(UserError, match="do not belong"):
        write_nifti(tmp_path / "b.nii", np.zeros((3, 3, 3), np.uint8), np.eye(4), like=path)
    with pytest.raises(UserError, match="named .nii"):
        write_nifti(tmp_path / "b.png", np.zeros((3, 3, 3), np.uint8), np.eye(4))


def test_without_the_extra_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"'nibabel': pip install 'cnn\[medical\]'"):
        read_nifti(tmp_path / "a.nii")
    with pytest.raises(UserError, match="'pydicom'"):
        read_dicom(tmp_path)


def test_a_dicom_series(tmp_path):
    folder = series(tmp_path / "ct", [6, 0, 3, 9])
    (folder / "notes.txt").write_text("not a slice")
    found = read_dicom(folder)
    assert found.voxels.shape == (4, 4, 5, 1) and found.spacing == (3.0, 0.5, 0.75)
    assert found.voxels[:, -1, -1, 0].tolist() == [2 * 100 * place - 1000 for place in (0, 3, 6, 9)]
    assert found.voxels[0, 3 - 1, 4 - 2, 0] == 2 * 7 - 1000  # rows go to the back, columns to the left
    assert (found.affine @ [0, 3, 4, 1]).tolist() == [-10.0, -20.0, 0.0, 1.0]
    assert (found.affine @ [1, 3 - 2, 4 - 4, 1]).tolist() == [-13.0, -21.0, 3.0, 1.0]
    write_nifti(tmp_path / "ct.nii.gz", found.voxels[..., 0], found.affine)
    again = read_nifti(tmp_path / "ct.nii.gz")
    assert np.array_equal(again.voxels, found.voxels) and np.allclose(again.affine, found.affine)


def test_a_sagittal_series(tmp_path):
    found = read_dicom(series(tmp_path / "mr", [2, 0, 4], orientation=(0, 1, 0, 0, 0, -1)))
    assert found.voxels.shape == (4, 5, 3, 1) and found.spacing == (0.5, 0.75, 2.0)
    assert found.voxels[-1, -1, :, 0].tolist() == [-1000, -600, -200]  # the normal goes to the right
    assert abs(np.linalg.det(found.affine)) == pytest.approx(2 * 0.5 * 0.75)


def test_dicom_that_is_refused(tmp_path):
    places = [0, 3, 6]
    with pytest.raises(BadVolume, match="uneven.*3 to 6"):
        read_dicom(series(tmp_path / "gap", [0, 3, 9]))
    with pytest.raises(BadVolume, match="one place"):
        read_dicom(series(tmp_path / "double", [0, 3, 3]))
    both = series(series(tmp_path / "two", places), places, uid="1.2.4")
    with pytest.raises(BadVolume, match=r"several series: 1.2.3 \(3\), 1.2.4 \(3\)"):
        read_dicom(both)
    assert read_dicom(both, "1.2.4").voxels.shape == (3, 4, 5, 1)
    series(series(tmp_path / "shapes", places), [9], rows=6)
    with pytest.raises(BadVolume, match="different shapes"):
        read_dicom(tmp_path / "shapes")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadVolume, match="no DICOM"):
        read_dicom(tmp_path / "empty")


# nibabel's zooms (x y z) times what a unit is in mm, computed once.
UNITS = {
    "micron": ((250.0, 500.0, 2000.0), (2.0, 0.5, 0.25)),
    "meter": ((0.001, 0.001, 0.0025), (2.5, 1.0, 1.0)),
    "mm": ((0.5, 0.75, 3.0), (3.0, 0.75, 0.5)),
    "unknown": ((0.5, 0.75, 3.0), (3.0, 0.75, 0.5)),
}


@pytest.mark.parametrize("kind", ["Nifti1", "Nifti2"])
@pytest.mark.parametrize("unit", UNITS)
def test_lengths_are_mm_whatever_the_unit_of_the_file(tmp_path, unit, kind):
    zooms, spacing = UNITS[unit]
    affine = np.diag([*zooms, 1.0])
    affine[:3, 3] = np.array([10, 20, 30]) * zooms
    image = getattr(nib, f"{kind}Image")(content(), affine)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "a.nii.gz")
    for found in (read_nifti(tmp_path / "a.nii.gz"), read_mask(tmp_path / "a.nii.gz")):
        assert found.spacing == pytest.approx(spacing, rel=1e-5) and found.unit == unit
        assert found.affine[:3, 3] == pytest.approx(np.array([10, 20, 30]) * spacing[::-1], rel=1e-5)
        assert found.voxel_ml == pytest.approx(np.prod(spacing) / 1000, rel=1e-5)
    assert facts(tmp_path / "a.nii.gz") == ((7, 6, 5), pytest.approx(spacing, rel=1e-5), unit)
    write_nifti(tmp_path / "b.nii", found.voxels, found.affine, like=tmp_path / "a.nii.gz")
    there, source = nib.load(tmp_path / "b.nii"), nib.load(tmp_path / "a.nii.gz")
    assert there.header.get_xyzt_units() == (unit, "sec") and type(there) is type(source)
    assert np.array_equal(there.affine, source.affine) and there.header.get_zooms() == source.header.get_zooms()
    write_nifti(tmp_path / "c.nii", found.voxels, found.affine)
    there = nib.load(tmp_path / "c.nii")
    assert there.header.get_xyzt_units()[0] == "mm" and there.header.get_zooms() == pytest.approx(spacing[::-1])


def test_a_unit_that_the_standard_does_not_have_is_unknown(tmp_path):
    path = saved(tmp_path / "a.nii", content())
    raw = bytearray(path.read_bytes())
    raw[123] = 5
    path.write_bytes(raw)
    assert read_nifti(path).unit == "unknown"


def test_voxels_of_a_fraction_of_a_micron(tmp_path):
    image = nib.Nifti1Image(content(), np.diag([0.1, 0.1, 0.3, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").spacing == pytest.approx((3e-4, 1e-4, 1e-4))


def gz(path, change):
    """Saves `content()` and changes bytes of the compressed file."""
    path = saved(path, content())
    raw = bytearray(path.read_bytes())
    change(raw)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("reader", [read_nifti, read_mask])
def test_the_checksum_of_gzip_is_read_to_its_end(tmp_path, reader):
    def last(raw, *places):
        for place in places:
            raw[place] ^= 1

    for name, places in {"crc": (-8, -5), "length": (-4, -1)}.items():
        for place in places:
            path = gz(tmp_path / f"{name}{place}.nii.gz", lambda raw, place=place: last(raw, place))
            with pytest.raises(BadVolume, match="truncated or damaged .gzip: incorrect"):
                reader(path)
    for count in (1, 4, 8, 9):
        path = gz(tmp_path / f"cut{count}.nii.gz", lambda raw, count=count: raw.__delitem__(slice(-count, None)))
        with pytest.raises(BadVolume, match="gzip: it ends early"):
            reader(path)
    path = gz(tmp_path / "more.nii.gz", lambda raw: raw.extend(b"rubbish"))
    with pytest.raises(BadVolume, match="gzip"):
        reader(path)
    path = gz(tmp_path / "tape.nii.gz", lambda raw: raw.extend(bytes(512)))
    assert reader(path).voxels.size == 210


def test_several_gzip_members_are_one_file(tmp_path):
    raw = saved(tmp_path / "a.nii", content()).read_bytes()
    parts = [raw[i : i + 100] for i in range(0, len(raw), 100)]
    (tmp_path / "b.nii.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    assert np.array_equal(read_nifti(tmp_path / "b.nii.gz").voxels, read_nifti(tmp_path / "a.nii").voxels)
    (tmp_path / "c.nii.gz").write_bytes(b"".join(map(gzip.compress, parts[:-1])))
    with pytest.raises(BadVolume, match="its header needs"):
        read_nifti(tmp_path / "c.nii.gz")


def test_more_than_the_header_says_is_refused(tmp_path):
    raw = saved(tmp_path / "a.nii", content()).read_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(raw + bytes(1 << 25)))
    with pytest.raises(BadVolume, match="unpacks to more than"):
        read_nifti(tmp_path / "bomb.nii.gz")
    header = bytearray(raw)
    header[42:48] = np.array([32767] * 3, "<i2").tobytes()
    (tmp_path / "huge.nii").write_bytes(header)
    with pytest.raises(BadVolume, match="too many voxels"):
        read_nifti(tmp_path / "huge.nii")
    header[42:48] = np.array([1000] * 3, "<i2").tobytes()
    for name, packed in (("short.nii", header), ("short.nii.gz", gzip.compress(header))):
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(BadVolume, match="its header needs 2,000,000,352"):
            read_nifti(tmp_path / name)
    header[108:112] = np.float32(0).tobytes()
    (tmp_path / "inside.nii").write_bytes(header)
    with pytest.raises(BadVolume, match="inside of the header"):
        read_nifti(tmp_path / "inside.nii")


def test_class_ids_that_a_slope_rounded(tmp_path):
    wanted = np.random.default_rng(0).integers(0, 3, SHAPE)
    path = saved(tmp_path / "a.nii", (wanted * 0.9999999).astype(np.float32))
    assert np.array_equal(read_mask(path).voxels, wanted.transpose(2, 1, 0))
    scaled = nib.Nifti1Image((wanted * 85).astype(np.uint8), np.eye(4))
    scaled.header.set_slope_inter(1 / 85, 0)
    scaled.to_filename(tmp_path / "b.nii")
    raw = bytearray((tmp_path / "b.nii").read_bytes())
    raw[112:116] = np.float32(1 / 85).tobytes()
    raw[352:] = (wanted * 85).astype(np.uint8).tobytes(order="F")
    (tmp_path / "b.nii").write_bytes(raw)
    assert np.array_equal(read_mask(tmp_path / "b.nii").voxels, wanted.transpose(2, 1, 0))
    with pytest.raises(BadVolume, match=r"no whole numbers in 0..255 \(0.99\)"):
        read_mask(saved(tmp_path / "c.nii", np.full(SHAPE, 0.99, np.float32)))
    with pytest.raises(BadVolume, match=r"no whole numbers in 0..255 \(0 to 300\)"):
        read_mask(saved(tmp_path / "d.nii", np.where(content() == 5, 300, 0).astype(np.int16)))
