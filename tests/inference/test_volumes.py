"""Volumes from files to files: trained on a folder, predicting NIfTI files in any orientation and DICOM series."""

import json

import nibabel as nib
import numpy as np
import pytest

from cnn import cli
from cnn.files.volumes import read_mask
from cnn.scoring.surfaces import dice
from tests.support import volumes

pytestmark = pytest.mark.slow  # the training takes most of the time


@pytest.fixture(scope="module")
def run(trained):
    """A workdir: a 3-D U-Net that has learned to tell an organ and its core, in a few steps."""
    return trained("organs") / "run"


def test_the_run_is_scored_in_millimetres(run):
    found = json.loads((run / "summary.json").read_text())["test"]
    organ, tumour = found["surfaces"]  # the tumour is some voxels, for which the steps are too few
    assert (organ["class"], tumour["class"]) == ("organ", "tumour")
    assert organ["dice"] > 0.8 and organ["hd95"] < 4 and 0.5 < organ["surface_dice"] <= 1 and organ["examples"] == 1
    assert found["largest_component"]["surfaces"][0]["dice"] > 0.8 and 0 < found["surface_dice"] <= 1


@pytest.mark.parametrize("extra", [(), ("--tile=20", "--largest")])
def test_a_mask_lies_over_its_volume(run, tmp_path, capfd, extra):
    """Another size, spacing, byte order and orientation than those of the training: affine and voxels fit."""
    voxels, truth = volumes.blob(77, (30, 26, 24))
    turn = np.array([[2, 1], [0, -1], [1, 1]], float)
    turned, answer = (nib.orientations.apply_orientation(array, turn) for array in (voxels, truth))
    affine = nib.orientations.inv_ornt_aff(turn, voxels.shape)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(turned, affine, header), tmp_path / "scan.nii.gz")
    argv = ["predict", f"--workdir={run}", str(tmp_path), f"--masks={tmp_path / 'said'}", "--json", *extra]
    assert cli.main(argv) == 0, capfd.readouterr().err
    found = json.loads(capfd.readouterr().out)
    assert found["mask"] == str(tmp_path / "said" / "scan.nii.gz")
    mask = nib.load(found["mask"])
    assert mask.shape == turned.shape and np.allclose(mask.affine, affine) and mask.get_data_dtype() == np.uint8
    said = np.asarray(mask.dataobj)
    assert dice(answer > 0, said > 0) > 0.85
    assert found["ml"]["organ"] == pytest.approx((said == 1).sum() / 1000, abs=1e-3)


def test_a_dicom_series_and_what_cannot_be_read(run, tmp_path, capfd):
    voxels, truth = volumes.blob(5, (24, 22, 12))
    slices = voxels.transpose(2, 1, 0)[:, ::-1, ::-1]  # rows go to the back, columns to the left
    stored = slices // 2 + 500  # slope 2, intercept -1000
    volumes.series(tmp_path / "ct", [2 * i for i in range(12)], rows=22, columns=24, pixels=stored, PixelSpacing=[1, 1])
    (tmp_path / "bad.nii").write_text("nothing")
    paths = [str(tmp_path / "ct"), str(tmp_path / "bad.nii")]
    assert cli.main(["predict", f"--workdir={run}", *paths, f"--masks={tmp_path / 'said'}"]) == 1
    out, err = capfd.readouterr()
    assert "bad.nii: not a NIfTI file" in out and "1 of 2 inputs could not be predicted" in err
    assert dice(truth.transpose(2, 1, 0) > 0, read_mask(tmp_path / "said" / "ct.nii.gz").voxels > 0) > 0.85


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.nii", "--masks=m"], "'missing.nii' does not exist"),
        (["configs", "--masks=m"], "holds no .nii/.nii.gz/.npy files and no DICOM slices"),
    ],
)
def test_mistakes(run, capfd, arguments, said):
    assert cli.main(["predict", f"--workdir={run}", *arguments]) == 2
    assert said in capfd.readouterr().err
