"""Which inputs files, folders and globs stand for, of each kind; and what the readers make of them."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from cnn.errors import UserError
from cnn.features import KINDS
from cnn.inference.inputs import find
from cnn.inference.readers import READERS, read
from tests.support import volumes


@pytest.fixture
def root(tmp_path):
    """Files of every kind in one folder, and what must never be taken for one."""
    for name in ("b.png", "a.JPG", "sub/c.png", "notes.txt", "._b.png", "__MACOSX/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(tmp_path / "b.png")
    np.save(tmp_path / "s.npy", np.arange(12.0).reshape(6, 2))
    np.savetxt(tmp_path / "t.csv", np.arange(6.0), delimiter=",")
    (tmp_path / "u.ts").write_text("@classLabel true x y\n@data\n1,2,?:x\n4,5:?\n")
    volumes.save(tmp_path / "scan.nii.gz", np.ones((3, 4, 5), np.int16), (1.0, 2.0, 3.0))
    (tmp_path / "scan.nii.gz").rename(tmp_path / "scan.NII.GZ")
    volumes.series(tmp_path / "dicom" / "ct", [0, 2, 4])
    (tmp_path / "dicom" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    return tmp_path


def names(found, root):
    return [path.removeprefix(f"{root}/") for path in found]


@pytest.mark.parametrize(
    ("kind", "pattern", "wanted"),
    [
        ("image", "", ["a.JPG", "b.png", "sub/c.png"]),
        ("series", "", ["s.npy", "t.csv", "u.ts"]),
        ("volume", "", ["s.npy", "scan.NII.GZ", "dicom/ct"]),
        ("volume", "dicom", ["dicom/ct"]),
        ("image", "**/*.png", ["b.png", "sub/c.png"]),
        ("image", "s*", ["s.npy", "scan.NII.GZ", "sub/c.png"]),  # what a pattern matches is taken, of folders what fits
        ("image", "notes.txt", ["notes.txt"]),
    ],
)
def test_what_paths_stand_for(root, kind, pattern, wanted):
    assert names(find([f"{root}/{pattern}".rstrip("/")], kind), root) == wanted


def test_each_input_comes_once_in_the_order_of_the_paths(root):
    given = [root / "sub", root / "b.png", root, f"{root}/*.png"]
    assert names(find(given, "image"), root) == ["sub/c.png", "b.png", "a.JPG"]


def test_a_name_that_looks_like_a_pattern(root):
    (root / "x[1].png").touch()
    assert names(find([root / "x[1].png"], "image"), root) == ["x[1].png"]


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("missing.png", "image", "'.*missing.png' does not exist"),
        ("*.gif", "image", "is no file, and as a pattern it has no match"),
        ("dicom", "image", "dicom' holds no .jpg/.jpeg/.png files$"),
        ("sub", "volume", "sub' holds no .nii/.nii.gz/.npy files and no DICOM slices"),
        ("b.png", "tokens", "inputs of kind 'tokens'"),
        ("x\x1b[0m", "image", r"x\\x1b\[0m"),
    ],
)
def test_paths_that_stand_for_nothing_are_one_line(root, path, kind, said):
    with pytest.raises(UserError, match=said) as caught:
        find([root / path], kind)
    assert len(str(caught.value).splitlines()) == 1


def test_every_kind_of_main_input_has_a_reader():
    assert READERS.keys() == KINDS.keys()


def test_what_readers_give(root):
    (image,) = read("image", root / "b.png")
    assert image.arrays["image"].shape == (4, 6, 3) and image.name == image.path == str(root / "b.png")
    (series,) = read("series", root / "s.npy")
    assert series.arrays["series"].shape == (6, 2)
    (series,) = read("series", root / "t.csv")
    assert series.arrays["series"].shape == (6, 1)
    first, second = read("series", root / "u.ts")
    assert (first.name, second.name) == (f"{root}/u.ts#0", f"{root}/u.ts#1") and first.path == f"{root}/u.ts"
    np.testing.assert_array_equal(first.arrays["series"][:, 0], [1, 2, np.nan])
    (volume,) = read("volume", root / "scan.NII.GZ")
    assert volume.arrays["volume"].shape == (5, 4, 3, 1) and volume.arrays["spacing"].tolist() == [3, 2, 1]
    np.testing.assert_allclose(volume.affine[:3, :3], [[0, 0, 1], [0, 2, 0], [3, 0, 0]])
    (volume,) = read("volume", root / "dicom" / "ct")
    assert volume.arrays["volume"].shape == (3, 4, 5, 1) and volume.arrays["spacing"].tolist() == [2, 0.5, 0.75]
    nib.load(root / "scan.NII.GZ")  # the suffix is nibabel's too


def broken(root):
    import os

    (root / "cut.npy").write_bytes((root / "s.npy").read_bytes()[:100])
    np.save(root / "objects.npy", np.array([{}], object))
    np.save(root / "text.npy", np.array(["a"]))
    (root / "empty.csv").touch()
    (root / "head.csv").write_text("time,value\n1,2\n")
    (root / "none.ts").write_text("@data\n")
    os.mkfifo(root / "pipe.png")


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("image", "notes.txt", "empty file"),
        ("image", "sub", "a folder, not a file"),
        ("image", "pipe.png", "a pipe, not a file"),
        ("image", "gone.png", "no such file"),
        ("series", "cut.npy", "cannot be read as a series: "),
        ("series", "objects.npy", "cannot be read as a series: Object arrays"),
        ("series", "text.npy", "holds no array of numbers"),
        ("series", "empty.csv", "empty file"),
        ("series", "head.csv", "could not convert string 'time'"),
        ("series", "none.ts", "holds no series"),
        ("series", "gone.ts", "no such file"),
        ("volume", "b.png", "not a NIfTI file"),
        ("volume", "dicom/ct/1.2.3_0.dcm", "one DICOM slice; give the folder"),
        ("volume", "gone.nii", "no such file"),
    ],
)
def test_what_cannot_be_read_is_one_line(root, kind, name, said):
    broken(root)
    with pytest.raises(UserError, match=f"{name}: .*{said}") as caught:
        list(read(kind, root / name))
    assert len(str(caught.value).splitlines()) == 1
