"""DICOM as scanners and archives leave it: tilted gantries, empty tags, lookup tables, cut files, odd neighbours."""

import os

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cnn.files.dicom import read_dicom
from cnn.files.volumes import BadVolume
from tests.support.volumes import series

TILT = np.deg2rad(20)
STEPS = {  # the orientation, and mm from slice to slice
    "straight": ((1, 0, 0, 0, 1, 0), (0, 0, 2)),
    "tilted": ((1, 0, 0, 0, np.cos(TILT), -np.sin(TILT)), (0, 0, 2)),
    "tilted the other way": ((1, 0, 0, 0, np.cos(TILT), np.sin(TILT)), (0, 0, 3.7)),
    "downwards": ((1, 0, 0, 0, np.cos(TILT), -np.sin(TILT)), (0, 0, -2)),
    "sagittal, sheared": ((0, 1, 0, 0, 0, -1), (1.5, 0.1, 0.2)),
}


@pytest.mark.parametrize("name", STEPS)
def test_every_voxel_lies_where_the_tags_say(tmp_path, name):
    """Each pixel is a number of its own; its place is computed from the tags, as part 3, C.7.6.2.1.1 says."""
    orientation, step = STEPS[name]
    orientation = [float(f"{v:.10g}") for v in orientation]
    numbers = np.arange(5 * 4 * 6).reshape(5, 4, 6)
    series(tmp_path, range(5), rows=4, columns=6, orientation=orientation, step=step, pixels=numbers,
           RescaleSlope=1, RescaleIntercept=0)  # fmt: skip
    wanted = {}
    for path in tmp_path.iterdir():
        tags = pydicom.dcmread(path)
        along_row, along_column = np.array(tags.ImageOrientationPatient, float).reshape(2, 3)
        down, across = map(float, tags.PixelSpacing)
        for (row, column), number in np.ndenumerate(tags.pixel_array):
            place = np.array(tags.ImagePositionPatient, float) + column * across * along_row + row * down * along_column
            wanted[int(number)] = place * [-1, -1, 1]
    found = read_dicom(tmp_path)
    for index, number in np.ndenumerate(found.voxels[..., 0]):
        place = (found.affine @ [*index, 1])[:3]
        assert np.abs(place - wanted[int(number)]).max() < 1e-3, (index, number)
    assert found.voxels.size == len(wanted)


def test_slices_beside_the_line_are_refused(tmp_path):
    series(tmp_path, [0, 1, 2], step=(0, 0, 2))
    one = pydicom.dcmread(tmp_path / "1.2.3_1.dcm")
    one.ImagePositionPatient = [10, 21, 2]
    one.save_as(tmp_path / "1.2.3_1.dcm")
    with pytest.raises(BadVolume, match="1 mm beside the line"):
        read_dicom(tmp_path)


DEFAULTS = {"RescaleSlope": -1000 + 7, "RescaleIntercept": 2 * 7, "SamplesPerPixel": 2 * 7 - 1000,
            "PhotometricInterpretation": 2 * 7 - 1000, "SeriesInstanceUID": 2 * 7 - 1000,
            "SliceThickness": 2 * 7 - 1000, "PresentationLUTShape": 2 * 7 - 1000,
            "ModalityLUTSequence": 2 * 7 - 1000}  # fmt: skip


@pytest.mark.parametrize("tag", DEFAULTS)
def test_an_empty_tag_takes_the_default_of_the_standard(tmp_path, tag):
    """Stored value 7 at row 1, column 2; slope 2 and intercept -1000 where the tag is another."""
    found = read_dicom(series(tmp_path, [0, 3], **{tag: None}))
    assert found.voxels[0, 4 - 2, 5 - 3, 0] == DEFAULTS[tag]


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
                                 "BitsAllocated", "BitsStored", "PixelRepresentation"])  # fmt: skip
def test_an_empty_tag_without_default_is_one_line(tmp_path, tag):
    with pytest.raises(BadVolume) as caught:
        read_dicom(series(tmp_path, [0, 3], **{tag: None}))
    assert "\n" not in str(caught.value) and "1.2.3_0.dcm" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"PixelSpacing": [0, 1]}, "spacing .0.0, 1.0."),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "orientation"),
        ({"PixelSpacing": [1, 1, 1]}, "needs 2 finite"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour slices .PALETTE COLOR"),
        ({"SamplesPerPixel": 3}, "colour slices"),
        ({"Rows": 40}, "pixels unreadable"),
        ({"Rows": 60000, "Columns": 60000}, "above 67,108,864 pixels"),
    ],
)
def test_tags_that_cannot_be(tmp_path, fields, said):
    with pytest.raises(BadVolume, match=said):
        read_dicom(series(tmp_path, [0, 3], **fields))


def table(descriptor, data, vr="US"):
    item = Dataset()
    item.LUTDescriptor = descriptor
    item.add_new("LUTData", vr, data)
    return Sequence([item])


# pydicom's apply_modality_lut of the stored values 0..19, computed once.
LOOKED_UP = [[10, 10, 10, 10, 20], [40, 80, 160, 320, 320], [320] * 5, [320] * 5]


@pytest.mark.parametrize(
    "data",
    [([10, 20, 40, 80, 160, 320], "US"), (np.array([10, 20, 40, 80, 160, 320], "<u2").tobytes(), "OW")],
    ids=["US", "OW"],
)
def test_a_lookup_table_gives_the_units(tmp_path, data):
    lut = table([6, 3, 16], *data)
    found = read_dicom(series(tmp_path, [0], ModalityLUTSequence=lut, RescaleSlope=None, RescaleIntercept=None))
    assert found.voxels[0, ::-1, ::-1, 0].tolist() == LOOKED_UP


def test_a_lookup_table_of_another_length_is_refused(tmp_path):
    with pytest.raises(BadVolume, match="4 of 6 entries"):
        read_dicom(series(tmp_path, [0], ModalityLUTSequence=table([6, 3, 16], [1, 2, 3, 4])))


def test_low_values_that_are_white_are_turned(tmp_path):
    """MONOCHROME1 with 16 bits: stored v becomes 65535 - v, or -1 - v where they are signed; then slope, intercept."""
    ramp = np.arange(20).reshape(4, 5)
    for signed, pivot in ((1, -1), (0, 65535)):
        folder = series(tmp_path / str(signed), [0], PhotometricInterpretation="MONOCHROME1",
                        PixelRepresentation=signed)  # fmt: skip
        found = read_dicom(folder).voxels[0, ::-1, ::-1, 0]
        assert np.array_equal(found, 2 * (pivot - ramp) - 1000)
    found = read_dicom(series(tmp_path / "shape", [0], PresentationLUTShape="INVERSE")).voxels[0, ::-1, ::-1, 0]
    assert np.array_equal(found, 2 * (-1 - ramp) - 1000)
    lut = table([6, 3, 16], [10, 20, 40, 80, 160, 320])
    folder = series(tmp_path / "table", [0], PhotometricInterpretation="MONOCHROME1", ModalityLUTSequence=lut)
    assert read_dicom(folder).voxels[0, ::-1, ::-1, 0].tolist() == (330 - np.array(LOOKED_UP)).tolist()


def cut(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("keep", [0, 0.02, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("name", ["1.2.3_4.dcm", "1.2.3_2.dcm"])
def test_a_slice_that_is_cut_is_named(tmp_path, keep, name):
    series(tmp_path, range(5))
    cut(tmp_path / name, keep)
    with pytest.raises(BadVolume, match=name):
        read_dicom(tmp_path)


def test_a_slice_without_suffix_that_is_empty_is_named(tmp_path):
    series(tmp_path, range(4))
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        path.rename(tmp_path / f"IM{number:04d}")
    (tmp_path / "IM0004").write_bytes(b"")
    with pytest.raises(BadVolume, match=r"IM0004: cannot be read as a slice \(empty file\)"):
        read_dicom(tmp_path)


def test_what_lies_beside_the_slices_is_no_slice(tmp_path):
    series(tmp_path, range(4))
    (tmp_path / "README").write_text("notes")
    (tmp_path / "notes.txt").write_bytes(b"")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "._1.2.3_0.dcm").write_bytes(b"of a Mac")
    report = pydicom.dcmread(tmp_path / "1.2.3_0.dcm")
    for tag in ("PixelData", "Rows", "Columns", "BitsAllocated"):
        delattr(report, tag)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # a report
    report.save_as(tmp_path / "report.dcm")
    os.mkfifo(tmp_path / "pipe.dcm")
    assert read_dicom(tmp_path).voxels.shape == (4, 4, 5, 1)


def test_files_without_preamble(tmp_path):
    straight = read_dicom(series(tmp_path, range(4)))
    for path in tmp_path.iterdir():
        tags = pydicom.dcmread(path)
        bare = Dataset({key: tags[key] for key in tags.keys()})
        pydicom.dcmwrite(path, bare, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    assert np.array_equal(read_dicom(tmp_path).voxels, straight.voxels)
